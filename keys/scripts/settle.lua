-- Make a charge final, once. Gives 1, or 0 where the hold was given back before.
-- KEYS  1 the key     ARGV  1 id of the hold, 2 images, 3 model, 4 name of the idempotency record or empty
-- A repeated call gives 1 again, so a client may retry after a lost reply.
local KEPT_MS = 10000
local name, now = KEYS[1], clock()
local score = redis.call('ZSCORE', name .. ':holds', ARGV[1])
if not score then
  return 0
end
if tonumber(score) > 0 then
  redis.call('ZADD', name .. ':holds', -(now + KEPT_MS), ARGV[1])
  redis.call('HDEL', name, 'held:' .. ARGV[1])
  count_usage(name, now, ARGV[3], 'served', ARGV[2])
  local record = ARGV[4] ~= '' and redis.call('GET', ARGV[4])
  if record then
    redis.call('SET', ARGV[4], string.match(record, '%w+') .. ' done', 'KEEPTTL')
  end
end
return 1
