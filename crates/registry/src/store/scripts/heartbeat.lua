-- Renews a lease, if this stay still counts. Directory::heartbeat.
-- KEYS: edge. ARGV: number, lease in ms, connections, sessions, lateness_us, fullness_permille,
-- feed_us. Returns 1, or 0 when fenced.
if redis.call('HGET', KEYS[1], 'attachment') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'connections', ARGV[3], 'sessions', ARGV[4], 'lateness_us', ARGV[5],
  'fullness_permille', ARGV[6], 'feed_us', ARGV[7])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
