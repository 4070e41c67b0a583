-- Strikes holds from what an edge claims, where they were claimed under this number at most.
-- KEYS: claims. ARGV: number, holds.
for hold = 2, #ARGV do
  local claimed = redis.call('ZSCORE', KEYS[1], ARGV[hold])
  if claimed and tonumber(claimed) <= tonumber(ARGV[1]) then redis.call('ZREM', KEYS[1], ARGV[hold]) end
end
return 1
