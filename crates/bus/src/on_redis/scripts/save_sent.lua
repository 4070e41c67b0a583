-- Moves a mark forward, never back. KEYS: sent. ARGV: position, ttl ms
local held = redis.call('GET', KEYS[1])
local position = ARGV[1]
if held and tonumber(held) > tonumber(position) then position = held end
redis.call('SET', KEYS[1], position, 'PX', ARGV[2])
return redis.status_reply('OK')
