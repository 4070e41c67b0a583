-- An edge says hello: a new stay with a higher number, and a lease. Directory::attach.
-- KEYS: edge. ARGV: address, lease in ms. Returns the stay's number.
local time = redis.call('TIME')
local number = time[1] * 1000000 + time[2]
local last = tonumber(redis.call('HGET', KEYS[1], 'attachment') or '0')
if number <= last then number = last + 1 end
number = string.format('%.0f', number)
redis.call('HSET', KEYS[1], 'address', ARGV[1], 'attachment', number)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return number
