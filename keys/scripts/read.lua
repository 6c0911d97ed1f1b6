-- A key's hash, its budget brought up to date, and the time of the clock that did it (ms).
-- KEYS  1 the key
local now = clock()
renew(KEYS[1], now)
return {digits(now), redis.call('HGETALL', KEYS[1])}
