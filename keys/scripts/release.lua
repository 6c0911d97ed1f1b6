-- Give a held part of the budget back, once.
-- KEYS  1 the key's hash, 2 its holds     ARGV  1 hold member, 2 its count
if redis.call('ZREM', KEYS[2], ARGV[1]) == 1 then
  redis.call('HINCRBY', KEYS[1], 'used', -tonumber(ARGV[2]))
  return 1
end
return 0
