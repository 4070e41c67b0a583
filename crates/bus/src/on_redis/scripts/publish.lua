-- Logs reliable messages and publishes them, each in one step.
-- KEYS: clock (not in a cluster), then for each message: log, last, and, with a message_id, seen
-- ARGV: PUBLISH or SPUBLISH, entries_max, log age ms, log ttl ms, last ttl ms, dedup window ms, 1 or 0: is there a
--   clock, then for each message: envelope, channel, 1 or 0: has it a message_id
-- Answers for each message: its position, nil for a duplicate, or why its log refuses it. What Redis refuses as a whole
-- (it is full, or a replica) is an error of the call, and nothing was done: after the first write it refuses no other.
local publish, entries_max, log_ttl, last_ttl, dedup = ARGV[1], ARGV[2], ARGV[4], ARGV[5], ARGV[6]
local age_us, has_clock = ARGV[3] * 1000, ARGV[7] == '1'

local asked, logs, seens = {}, {}, {}
local key = 1
if has_clock then
  asked[1] = KEYS[1]
  key = 2
end
for argument = 8, #ARGV, 3 do
  logs[#logs + 1] = KEYS[key]
  asked[#asked + 1] = KEYS[key + 1]
  key = key + 2
  if ARGV[argument + 2] == '1' then
    seens[#logs] = KEYS[key]
    key = key + 1
  end
end
local held = redis.call('MGET', unpack(asked))
local lasts = {}
for index, name in ipairs(asked) do lasts[name] = held[index] end
local skip = has_clock and 1 or 0
local clock = has_clock and held[1] or 0

-- doubles hold whole microseconds until the year 2255
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
-- keys that live for a while longer than they must are told so once in an eighth of the age, not by each message
local renewed_in = math.floor(now / (age_us / 8))

local answers = {}
local given = false
for index, log in ipairs(logs) do
  local argument = 5 + index * 3
  local last, seen = asked[skip + index], seens[index]
  if seen and not redis.call('SET', seen, '1', 'NX', 'PX', dedup) then
    answers[index] = false
  else
    local prev = lasts[last]
    local renew = not prev or math.floor(prev / (age_us / 8)) ~= renewed_in
    if not prev then
      -- evicted, perhaps: the log itself knows better than "none"; if it is no log, XADD says so below
      local newest = redis.pcall('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
      if newest then
        local ms, us = string.match(newest[1], '(%d+)-(%d+)')
        prev = string.format('%.0f', ms * 1000 + us)
      else
        prev = '0'
      end
    end
    local position = math.max(now, prev + 1, clock + 1)
    local text = string.format('%.0f', position)
    local ms = math.floor(position / 1000)
    local id = string.format('%.0f-%.0f', ms, position - ms * 1000)
    -- fields 14 and 15 of the envelope, as herald_wire::envelope::append_place writes them
    local envelope = ARGV[argument] .. string.char(114, #text) .. text .. string.char(122, #prev) .. prev

    local added = not renew and redis.pcall('XADD', log, 'NOMKSTREAM', 'MAXLEN', '~', entries_max, id, 'e', envelope)
    if not added then
      renew = true
      added = redis.pcall('XADD', log, 'MAXLEN', '~', entries_max, id, 'e', envelope)
    end
    if type(added) == 'table' and added.err then
      -- so that a retry is whole
      if seen then redis.call('DEL', seen) end
      local of_this_log = string.find(added.err, 'WRONGTYPE', 1, true) or string.find(added.err, 'smaller', 1, true)
      if not given and not of_this_log then return added end
      answers[index] = added
    else
      if renew then
        redis.call('PEXPIRE', log, log_ttl)
        redis.call('SET', last, text, 'PX', last_ttl)
      else
        redis.call('SET', last, text, 'KEEPTTL')
      end
      lasts[last], given = text, text
      if has_clock then clock = position end
      if position % 64 == 0 then
        local oldest_ms = math.floor((position - age_us) / 1000)
        redis.call('XTRIM', log, 'MINID', '~', string.format('%.0f', oldest_ms))
      end
      redis.call(publish, ARGV[argument + 1], envelope)
      answers[index] = text
    end
  end
end
if has_clock and given then redis.call('SET', KEYS[1], given) end
return answers
