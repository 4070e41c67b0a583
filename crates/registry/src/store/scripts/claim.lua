-- The conflict rule. Directory::claim, directory::rule.
-- KEYS: owner. ARGV: edge, connection, number, age in ms, an edge known to be dead or ''.
-- Returns {ruling, edge, connection}: whoever held it, or holds it.
local held = redis.call('HMGET', KEYS[1], 'edge', 'connection', 'since', 'attachment')
if held[1] == ARGV[1] and held[2] == ARGV[2] then
  if tonumber(ARGV[3]) > tonumber(held[4]) then redis.call('HSET', KEYS[1], 'attachment', ARGV[3]) end
  return { 'kept', held[1], held[2] }
end
local time = redis.call('TIME')
local since = math.max(0, time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(ARGV[4]))
local free = not held[1] or held[1] == ARGV[5]
if not free and tonumber(held[3]) > since then return { 'lost', held[1], held[2] } end
redis.call('HSET', KEYS[1], 'edge', ARGV[1], 'connection', ARGV[2], 'since', string.format('%.0f', since),
  'attachment', ARGV[3])
if free then return { 'taken', '', '' } end
return { 'won', held[1], held[2] }
