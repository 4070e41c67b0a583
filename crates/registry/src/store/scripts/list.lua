-- Lists an edge, by the end of its lease.
-- KEYS: edges. ARGV: edge, lease in ms.
local time = redis.call('TIME')
local until_ms = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[2])
return redis.call('ZADD', KEYS[1], string.format('%.0f', until_ms), ARGV[1])
