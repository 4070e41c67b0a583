-- Logs one reliable message and publishes it, in one step.
-- KEYS: log, last, clock (in a cluster: last again), and, with a message_id, seen
-- ARGV: envelope, channel, PUBLISH or SPUBLISH, entries_max, log age ms, last age ms, dedup window ms
-- Answers the position, or nil for a duplicate.
local log, last, clock, seen = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
if seen and redis.call('EXISTS', seen) == 1 then return false end

local held = redis.call('MGET', last, clock)
local prev = held[1]
if not prev then
  -- evicted, perhaps: the log itself knows better than "none"
  local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  if newest then
    local ms, us = string.match(newest[1], '(%d+)-(%d+)')
    prev = string.format('%.0f', ms * 1000 + us)
  else
    prev = '0'
  end
end

-- doubles hold whole microseconds until the year 2255
local time = redis.call('TIME')
local position = math.max(time[1] * 1000000 + time[2], prev + 1, (held[2] or 0) + 1)
local text = string.format('%.0f', position)
local ms = math.floor(position / 1000)
local id = string.format('%.0f-%.0f', ms, position - ms * 1000)

-- fields 14 and 15 of the envelope, as herald_wire::envelope::append_place writes them
local envelope = ARGV[1] .. string.char(114, #text) .. text .. string.char(122, #prev) .. prev

-- the first write: if Redis refuses it, nothing was done, the message_id is not remembered, and a retry is whole
redis.call('XADD', log, 'MAXLEN', '~', ARGV[4], id, 'e', envelope)
redis.call('PEXPIRE', log, ARGV[5])
redis.call('SET', last, text, 'PX', ARGV[6])
if clock ~= last then redis.call('SET', clock, text) end
if seen then redis.call('SET', seen, '1', 'PX', ARGV[7]) end
if position % 64 == 0 then
  local oldest_ms = math.floor((position - ARGV[5] * 1000) / 1000)
  redis.call('XTRIM', log, 'MINID', '~', string.format('%.0f', oldest_ms))
end
redis.call(ARGV[3], ARGV[2], envelope)
return text
