-- Make a charge final, once. Gives 1, or 0 where the hold was given back before.
-- KEYS  1 the key     ARGV  1 id of the hold, 2 images, 3 model, 4 name of the idempotency record or empty
-- A repeated call gives 1 again, so a client may retry after a lost reply: for a while it is known who has settled.
local KEPT_MS = 10000
local name, now = KEYS[1], clock()
if redis.call('HDEL', name, 'held:' .. ARGV[1]) == 0 then
  return redis.call('ZSCORE', name .. ':settled', ARGV[1]) and 1 or 0
end
redis.call('ZADD', name .. ':settled', digits(now + KEPT_MS), ARGV[1])
count_usage(name, now, ARGV[3], 'served', ARGV[2])
local record = ARGV[4] ~= '' and redis.call('GET', ARGV[4])
if record then
  redis.call('SET', ARGV[4], string.match(record, '%w+') .. ' done', 'KEEPTTL')
end
return 1
