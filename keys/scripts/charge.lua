-- Check a key and hold part of its budget, in one atomic step.
-- KEYS  1 the key's hash, 2 its holds (sorted set: member "id:count", score = expiry in ms)
-- ARGV  1 epoch of the credential, 2 answers wanted, 3 hold member, 4 life of the hold in ms
-- Gives {verdict, limit, remaining}; verdict is "held", "invalid" or "exceeded"; an unlimited budget has limit "".
-- A repeated call with the same hold member is charged once, so a client may retry after a lost reply.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local key = redis.call('HMGET', KEYS[1], 'state', 'epoch', 'expires_at', 'limit', 'used')
local state, epoch, expires_at, limit, used = key[1], key[2], key[3], key[4], tonumber(key[5])
if state ~= 'active' or epoch ~= ARGV[1] or (expires_at ~= '' and now >= tonumber(expires_at) * 1000) then
  return {'invalid', '', ''}
end

local expired = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)
for _, member in ipairs(expired) do
  used = redis.call('HINCRBY', KEYS[1], 'used', -tonumber(string.match(member, '(%d+)$')))
  redis.call('ZREM', KEYS[2], member)
end

local wanted = tonumber(ARGV[2])
if redis.call('ZSCORE', KEYS[2], ARGV[3]) then
  wanted = 0
elseif limit ~= '' and used + wanted > tonumber(limit) then
  return {'exceeded', limit, string.format('%.0f', math.max(0, tonumber(limit) - used))}
else
  used = redis.call('HINCRBY', KEYS[1], 'used', wanted)
  redis.call('ZADD', KEYS[2], now + tonumber(ARGV[4]), ARGV[3])
end
return {'held', limit, limit == '' and '' or string.format('%.0f', tonumber(limit) - used)}
