-- May a key's request be answered? Judge everything, then charge everything, in one atomic step.
-- KEYS  1 the key
-- ARGV  1 revision that the caller has read, 2 digest of its API key or empty, 3 epoch and 4 id of its token or empty,
--       5 images, 6 charge (images or 0), 7 id of the hold, 8 life of the hold in ms, 9 model,
--       10 name of the idempotency record or empty, 11 fingerprint of the request, 12 life of that record in s,
--       13 for how many s a refusal is not the first of its kind,
--       14 how far the time in a sealed image may be off in s, 15 for how many s one without a time is remembered,
--       16 … the sealed images, each as its name and its time (s, empty if it has none)
-- Gives {verdict, …}:
--   held, limit, remaining, granted, refill, resets_at, then for each rate limit its number, remaining, reset in ms
--   invalid, and changed: the caller's knowledge is older than the key
--   exceeded, limit, remaining, granted, refill, resets_at, first of its kind (1 or 0)
--   limited, name, ms until it would fit or -1, first (1 or 0)
--   seen: a sealed image came before, or is not fresh
--   mismatch, and running: the Idempotency-Key came with another request, or with one that is not answered yet
--   replayed, like held: this request was answered, and charged, before
-- A repeated call with the same hold is charged once, so a client may retry after a lost reply.
local name, now = KEYS[1], clock()
local LAST_USED_S = 60

renew(name, now)
local key = redis.call('HMGET', name, 'state', 'revision', 'epoch', 'expires_at', 'limit', 'used', 'granted', 'refill',
  'resets_at', 'period', 'rates', 'last_used', 'digest:' .. ARGV[2])
local limit, refill, resets_at = key[5], key[8], key[9]
if key[1] ~= 'active' or (key[4] ~= '' and now >= key[4] * 1000) then
  return {'invalid'}
end
if ARGV[2] ~= '' then
  if not key[13] or (key[13] ~= '' and now >= tonumber(key[13])) then
    return {'invalid'}
  end
elseif key[3] ~= ARGV[3] or redis.call('EXISTS', name .. ':buried:' .. ARGV[4]) == 1 then
  return {'invalid'}
end
if key[2] ~= ARGV[1] then
  return {'changed'}
end

local used, granted = tonumber(key[6]), tonumber(key[7])
local images, charge, hold, verdict = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], 'held'
local again = redis.call('ZSCORE', name .. ':holds', hold)
local record = ARGV[10] ~= '' and not again and redis.call('GET', ARGV[10])
if record then
  local fingerprint, state = string.match(record, '(%w+) (%w+)')
  if fingerprint ~= ARGV[11] then
    return {'mismatch'}
  elseif state == 'done' then
    verdict, charge = 'replayed', 0
  elseif redis.call('ZSCORE', name .. ':holds', state) then
    return {'running'}
  end
end

-- Judge
local changed, standings = {}, {}
if key[11] ~= '' and images > 0 and not again then
  local number = 0
  for rate, most, seconds in string.gmatch(key[11], '(%S+) (%d+) (%d+)') do
    number = number + 1
    local field = 'rate:' .. rate
    local left, retry_ms, text, reset_ms =
      window(redis.call('HGET', name, field), now, tonumber(most), seconds * 1000, images)
    if retry_ms ~= 0 then
      count_usage(name, now, ARGV[9], 'rate-limited', images)
      return {'limited', rate, digits(retry_ms), first_refusal(name, 'rate-limited', ARGV[13])}
    end
    changed[#changed + 1] = field
    changed[#changed + 1] = text
    standings[#standings + 1] = number
    standings[#standings + 1] = digits(left - images)
    standings[#standings + 1] = digits(reset_ms)
  end
end
local notes = {}
for i = 16, (again or verdict == 'replayed') and 0 or #ARGV, 2 do
  local note, time, life = name .. ':seen:' .. ARGV[i], ARGV[i + 1], tonumber(ARGV[15])
  if time ~= '' then
    if math.abs(now / 1000 - time) >= tonumber(ARGV[14]) then
      return {'seen'}
    end
    life = 2 * ARGV[14]  -- until its time is too far off even if that lay ahead
  end
  if notes[note] or redis.call('EXISTS', note) == 1 then
    return {'seen'}
  end
  notes[note] = life
end
local allowance = limit == '' and charge or math.min(charge, math.max(0, limit - used))
local grants = charge - allowance
local function left()
  return limit == '' and '' or digits(math.max(0, limit - used) + granted)
end
if not again and grants > granted then
  count_usage(name, now, ARGV[9], 'quota-exceeded', images)
  return {'exceeded', limit, left(), digits(granted), refill, resets_at, first_refusal(name, 'quota-exceeded', ARGV[13])}
end

-- Charge
if not again then
  for note, life in pairs(notes) do
    redis.call('SET', note, hold, 'EX', life)
  end
  if charge > 0 then
    used, granted = used + allowance, granted - grants
    for _, text in ipairs({'used', digits(used), 'granted', digits(granted), 'held:' .. hold,
      key[10] .. ':' .. digits(allowance) .. ':' .. digits(grants)}) do
      changed[#changed + 1] = text
    end
    redis.call('ZADD', name .. ':holds', now + ARGV[8], hold)
    ledger(name, 'charge', ARGV[6], digits(used), digits(granted))
    if ARGV[10] ~= '' then
      redis.call('SET', ARGV[10], ARGV[11] .. ' ' .. hold, 'EX', ARGV[12])
    end
  elseif images > 0 then
    count_usage(name, now, ARGV[9], verdict == 'replayed' and 'replayed' or 'public', images)
  end
  if key[12] == '' or now - key[12] * 1000 >= LAST_USED_S * 1000 then
    changed[#changed + 1] = 'last_used'
    changed[#changed + 1] = digits(math.floor(now / 1000))
  end
  if #changed > 0 then
    redis.call('HSET', name, unpack(changed))
  end
end
return {verdict, limit, left(), digits(granted), refill, resets_at, unpack(standings)}
