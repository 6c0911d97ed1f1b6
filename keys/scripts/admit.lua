-- May a key's request be answered? Judge everything, then charge everything, in one atomic step.
-- KEYS  1 the key
-- ARGV  1 in one text, parted by spaces, since each argument costs a client as much as all of this text: revision that
--         the caller has read, digest of its API key or empty, epoch and id of its token or empty, images,
--         charge (images or 0), id of the hold, model (which may hold spaces)
--       2 name of the idempotency record or empty, 3 fingerprint of the request
--       4 … the sealed images, each as its name and its time (s, empty if it has none)
-- Gives {verdict, …}; limit, refill and rate limits are those of the revision that the caller has read:
--   held, remaining (empty: unlimited), granted, resets_at, then for each rate limit remaining and reset in ms
--   invalid, and changed: the caller's knowledge is older than the key
--   exceeded, remaining, granted, resets_at, first of its kind (1 or 0)
--   limited, name, ms until it would fit or -1, first (1 or 0)
--   seen: a sealed image came before, or is not fresh
--   mismatch, and running: the Idempotency-Key came with another request, or with one that is not answered yet
--   replayed, like held: this request was answered, and charged, before
-- A repeated call with the same hold is charged once, so a client may retry after a lost reply.
local REPLAY_LIFE_S = 86400
local FRESH_S = 300  -- how far the time in a sealed image may be off
local UNTIMED_LIFE_S = 86400  -- how long one without a time is remembered
local LAST_USED_S = 60

local name, now = KEYS[1], clock()
local revision, digest, epoch, token, images, charge, hold, model =
  string.match(ARGV[1], '^(%S*) (%S*) (%S*) (%S*) (%S*) (%S*) (%S*) (.*)$')
images, charge = tonumber(images), tonumber(charge)
local request = ARGV[2] ~= '' and ARGV[2]

local function read()
  return redis.call('HMGET', name, 'state', 'revision', 'epoch', 'expires_at', 'limit', 'used', 'granted', 'refill',
    'resets_at', 'period', 'rates', 'last_used', 'due', 'digest:' .. digest, 'held:' .. hold)
end

local key = read()
local due, resets_at = key[13], key[9]
if due and (to_sweep(tonumber(due), now) or (resets_at == '' and key[8] ~= 'none') or (resets_at ~= '' and now >= resets_at * 1000)) then
  renew(name, now)
  key = read()
  resets_at = key[9]
end
if key[1] ~= 'active' or (key[4] ~= '' and now >= key[4] * 1000) then
  return {'invalid'}
end
if digest ~= '' then
  if not key[14] or (key[14] ~= '' and now >= tonumber(key[14])) then
    return {'invalid'}
  end
elseif key[3] ~= epoch or redis.call('EXISTS', name .. ':buried:' .. token) == 1 then
  return {'invalid'}
end
if key[2] ~= revision then
  return {'changed'}
end

local limit, used, granted = tonumber(key[5]), key[6], key[7]
local verdict = 'held'
local again = key[15] or (charge > 0 and redis.call('ZSCORE', name .. ':settled', hold))
local record = request and not again and redis.call('GET', request)
if record then
  local fingerprint, state = string.match(record, '(%w+) (%w+)')
  if fingerprint ~= ARGV[3] then
    return {'mismatch'}
  elseif state == 'done' then
    verdict, charge = 'replayed', 0
  elseif redis.call('HEXISTS', name, 'held:' .. state) == 1 then
    return {'running'}
  end
end

-- Judge
local changed, standings = {}, {}
if key[11] ~= '' and images > 0 and not again then
  local rates = {}
  for rate, most, seconds in string.gmatch(key[11], '(%S+) (%d+) (%d+)') do
    rates[#rates + 1] = {rate, most + 0, seconds * 1000}
    changed[#changed + 1] = 'rate:' .. rate
  end
  local seen = redis.call('HMGET', name, unpack(changed))
  for i, rate in ipairs(rates) do
    local left, retry_ms, text, reset_ms = window(seen[i], now, rate[2], rate[3], images)
    if retry_ms ~= 0 then
      count_usage(name, now, model, 'rate-limited', images)
      return {'limited', rate[1], digits(retry_ms), first_refusal(name, 'rate-limited')}
    end
    changed[2 * i - 1], changed[2 * i] = 'rate:' .. rate[1], text
    standings[2 * i - 1], standings[2 * i] = digits(left - images), digits(reset_ms)
  end
end
local notes = {}
for i = 4, (again or verdict == 'replayed') and 0 or #ARGV, 2 do
  local note, time, life = name .. ':seen:' .. ARGV[i], ARGV[i + 1], UNTIMED_LIFE_S
  if time ~= '' then
    if math.abs(now / 1000 - time) >= FRESH_S then
      return {'seen'}
    end
    life = 2 * FRESH_S  -- until its time is too far off even if that lay ahead
  end
  if notes[note] or redis.call('EXISTS', note) == 1 then
    return {'seen'}
  end
  notes[note] = life
end
local function left()
  return limit and digits(math.max(0, limit - used) + granted) or ''
end
local allowance = limit and math.min(charge, math.max(0, limit - used)) or charge
local grants = charge - allowance
if not again and grants > granted + 0 then
  count_usage(name, now, model, 'quota-exceeded', images)
  return {'exceeded', left(), granted, resets_at, first_refusal(name, 'quota-exceeded')}
end

-- Charge
if not again then
  for note, life in pairs(notes) do
    redis.call('SET', note, hold, 'EX', life)
  end
  local n = #changed
  if charge > 0 then
    used = digits(used + allowance)
    changed[n + 1], changed[n + 2], changed[n + 3] = 'used', used, 'held:' .. hold
    changed[n + 4] = string.format('%.0f:%s:%.0f:%.0f', now + HOLD_LIFE_MS, key[10], allowance, grants)
    n = n + 4
    if grants > 0 then
      granted = digits(granted - grants)
      changed[n + 1], changed[n + 2] = 'granted', granted
      n = n + 2
    end
    ledger(name, now, 'charge', digits(charge), used, granted)
    if request then
      redis.call('SET', request, ARGV[3] .. ' ' .. hold, 'EX', REPLAY_LIFE_S)
    end
  elseif images > 0 then
    count_usage(name, now, model, verdict == 'replayed' and 'replayed' or 'public', images)
  end
  if key[12] == '' or now - key[12] * 1000 >= LAST_USED_S * 1000 then
    changed[n + 1], changed[n + 2] = 'last_used', digits(math.floor(now / 1000))
    n = n + 2
  end
  if n > 0 then
    redis.call('HSET', name, unpack(changed))
  end
end
return {verdict, left(), granted, resets_at, unpack(standings)}
