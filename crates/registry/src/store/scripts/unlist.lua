-- Strikes a swept edge from the list, unless it came back meanwhile.
-- KEYS: edges. ARGV: edge, the lease's end that was seen. Returns 1 when struck.
if redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('ZREM', KEYS[1], ARGV[1])
