-- Let an API key be found under one more digest, for as long as under those it has. Gives 1, or 0 where it has none.
-- KEYS  1 the key, 2 what finds it by the new digest
-- ARGV  1 id of the key, 2 the new digest, 3 name of the master key that it is of, 4 … the older digests
for i = 4, #ARGV do
  local ends = redis.call('HGET', KEYS[1], 'digest:' .. ARGV[i])
  if ends then
    redis.call('SET', KEYS[2], ARGV[1])
    redis.call('HSET', KEYS[1], 'digest:' .. ARGV[2], ends)
    if ends == '' then  -- one in its overlap has a successor, which may still be known under the older master key alone
      redis.call('HSET', KEYS[1], 'master', ARGV[3])
    end
    redis.call('HINCRBY', KEYS[1], 'revision', 1)  -- a rotation that has not read the new digest must not leave it good
    return 1
  end
end
return 0
