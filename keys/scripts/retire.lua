-- Let an image key end after an overlap, never later than it would anyway. Gives 1, or 0 where there is no such one.
-- KEYS  1 the image keys     ARGV  1 kid, 2 overlap in ms
local found = redis.call('HGET', KEYS[1], ARGV[1])
if not found then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local entry = cjson.decode(found)
entry.ends_at = math.min(entry.ends_at or math.huge, now + tonumber(ARGV[2]))
if entry.ends_at <= now then
  entry.secret = nil
end
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(entry))
return 1
