-- Notes what an edge claims, if this stay still counts; with no holds it only asks whether it does.
-- KEYS: edge, claims. ARGV: number, lease in ms or 0 to leave it as it is, holds. Returns 1, or 0 when fenced.
if redis.call('HGET', KEYS[1], 'attachment') ~= ARGV[1] then return 0 end
if ARGV[2] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
for hold = 3, #ARGV do redis.call('ZADD', KEYS[2], ARGV[1], ARGV[hold]) end
return 1
