-- Give a charge back, once; a settled one stays charged.
-- KEYS  1 the key     ARGV  1 id of the hold, 2 images, 3 model, 4 name of the idempotency record or empty,
--       5 … names of the sealed images, which may come again
local name, now = KEYS[1], clock()
local held = redis.call('HGET', name, 'held:' .. ARGV[1])
if not held then
  return 0
end
give_back(name, now, ARGV[1], held, 'release')
count_usage(name, now, ARGV[3], 'failed', ARGV[2])
if ARGV[4] ~= '' then
  redis.call('DEL', ARGV[4])
end
for i = 5, #ARGV do
  redis.call('DEL', name .. ':seen:' .. ARGV[i])
end
return 1
