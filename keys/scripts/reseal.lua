-- Put another sealed secret in the place of one that is still there. Gives 1, or 0 where it is not.
-- KEYS  1 the key, 2 its image keys     ARGV  1 kid, 2 the secret as it was, 3 as it shall be
local found = redis.call('HGET', KEYS[2], ARGV[1])
local entry = found and cjson.decode(found)
if not entry or entry.secret ~= ARGV[2] then
  return 0
end
entry.secret = ARGV[3]
redis.call('HSET', KEYS[2], ARGV[1], cjson.encode(entry))
redis.call('HINCRBY', KEYS[1], 'revision', 1)  -- a change that has read the old secret must not write it back
return 1
