-- Give a charge back, once; a settled one stays charged.
-- KEYS  1 the key     ARGV  1 id of the hold, 2 images, 3 model, 4 name of the idempotency record or empty,
--       5 … names of the sealed images, which may come again
local name = KEYS[1]
local score = redis.call('ZSCORE', name .. ':holds', ARGV[1])
if not score or tonumber(score) < 0 then
  return 0
end
give_back(name, ARGV[1], 'release')
count_usage(name, clock(), ARGV[3], 'failed', ARGV[2])
if ARGV[4] ~= '' then
  redis.call('DEL', ARGV[4])
end
for i = 5, #ARGV do
  redis.call('DEL', name .. ':seen:' .. ARGV[i])
end
return 1
