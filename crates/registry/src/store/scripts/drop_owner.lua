-- Drops an owner, if this edge and connection still are it, claimed under this number at most. Directory::release.
-- KEYS: owner. ARGV: edge, connection, number. Returns 1 when dropped.
local held = redis.call('HMGET', KEYS[1], 'edge', 'connection', 'attachment')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] or tonumber(held[3]) > tonumber(ARGV[3]) then return 0 end
redis.call('DEL', KEYS[1])
return 1
