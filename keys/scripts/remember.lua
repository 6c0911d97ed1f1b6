-- Take note of a sealed image, once. Gives 1, or 0 where it is not fresh or was noted before.
-- KEYS  1 its name
-- ARGV  1 who asks, 2 its time (s, empty if it has none), 3 how far that may be off (s), 4 life of a note without it (s)
-- A repeated call by the same asker gives 1 again, so a client may retry after a lost reply.
local life = tonumber(ARGV[4])
if ARGV[2] ~= '' then
  local time = redis.call('TIME')
  if math.abs(time[1] + time[2] / 1000000 - tonumber(ARGV[2])) >= tonumber(ARGV[3]) then
    return 0
  end
  life = 2 * ARGV[3]  -- until its time is too far off even if that lay ahead
end
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', 1000 * life) or redis.call('GET', KEYS[1]) == ARGV[1] then
  return 1
end
return 0
