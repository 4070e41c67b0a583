-- Publishes a volatile message unless its message_id was published to this target within the dedup window.
-- KEYS: seen. ARGV: envelope, channel, PUBLISH or SPUBLISH, dedup window ms
-- Answers the number of receivers, or nil for a duplicate.
if not redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[4]) then return false end
return redis.call(ARGV[3], ARGV[2], ARGV[1])
