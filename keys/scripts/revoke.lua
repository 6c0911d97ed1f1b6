-- Revoke a key for good; the new epoch kills its tokens. Gives 1, or 0 where there is no such key.
-- KEYS  1 the key's hash
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
if redis.call('HGET', KEYS[1], 'state') ~= 'revoked' then
  redis.call('HSET', KEYS[1], 'state', 'revoked')
  redis.call('HINCRBY', KEYS[1], 'epoch', 1)
end
return 1
