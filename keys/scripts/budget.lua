-- What every script on a key begins with: the clock, a budget brought up to date, the ledger, usage, windows.
-- A key is the hash sdb:{ID}; whatever else it owns begins with that name, and so lies in the same hash slot.
local DAY_S = 86400
local LEDGER_LINES, USAGE_S = 10000, 400 * DAY_S
local PARTS = 12  -- of a window: a place is free again at most a twelfth of the window too late, never too early

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function digits(number)
  return string.format('%.0f', number)
end

local function ledger(name, kind, count, used, granted)
  redis.call('XADD', name .. ':ledger', 'MAXLEN', '~', LEDGER_LINES, '*',
    'kind', kind, 'count', count, 'used', used, 'granted', granted)
end

local function count_usage(name, now, model, outcome, count)
  local hours = math.floor(now / 3600000)
  local day = name .. ':usage:' .. math.floor(hours / 24)
  if redis.call('HINCRBY', day, hours .. ':' .. outcome .. ':' .. model, count) == tonumber(count) then
    redis.call('EXPIRE', day, USAGE_S)
  end
end

-- 1 if a key was not refused for this reason for `seconds`, else 0: so often a refusal is logged.
local function first_refusal(name, code, seconds)
  return redis.call('SET', name .. ':refused:' .. code, 1, 'NX', 'EX', seconds) and 1 or 0
end

-- Days since the first of the month of day number `day` (since 1970), by the civil calendar: years begin in March.
local function day_of_month(day)
  local of_era = (day + 719468) % 146097
  local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524)
    - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  return of_year - math.floor((153 * math.floor((5 * of_year + 2) / 153) + 2) / 5)
end

-- The midnight (s, UTC) that ends the period of `now` (ms).
local function next_reset(now, refill)
  local day = math.floor(now / 1000 / DAY_S)
  if refill == 'daily' then
    return (day + 1) * DAY_S
  end
  local next_month = day - day_of_month(day) + 32
  return (next_month - day_of_month(next_month)) * DAY_S
end

-- Give back what a hold has taken; of a period that is over there is nothing to give back but grants.
local function give_back(name, id, kind)
  local held = redis.call('HGET', name, 'held:' .. id)
  redis.call('ZREM', name .. ':holds', id)
  redis.call('HDEL', name, 'held:' .. id)
  local period, allowance, grants = string.match(held, '(%d+):(%d+):(%d+)')
  local used = 0
  if redis.call('HGET', name, 'period') == period then
    used = redis.call('HINCRBY', name, 'used', 0 - allowance)  -- `-` alone makes -0 of 0, which no store counts with
  else
    allowance, used = 0, redis.call('HGET', name, 'used')
  end
  ledger(name, kind, 0 - allowance - grants, used, redis.call('HINCRBY', name, 'granted', grants))
end

-- Bring a key's budget up to date: a refill that is due, holds that nobody settled in time. A settled hold stays for
-- a while, at minus the time when it may be forgotten, so that whoever settles it twice is told the same.
local function renew(name, now)
  local key = redis.call('HMGET', name, 'resets_at', 'refill')
  if key[1] == '' and key[2] ~= 'none' then
    redis.call('HSET', name, 'resets_at', next_reset(now, key[2]))
  elseif key[1] and key[1] ~= '' and now >= key[1] * 1000 then
    redis.call('HSET', name, 'used', 0, 'resets_at', next_reset(now, key[2]))
    redis.call('HINCRBY', name, 'period', 1)
    ledger(name, 'refill', 0, 0, redis.call('HGET', name, 'granted'))
  end
  local over = redis.call('ZRANGEBYSCORE', name .. ':holds', -now, now, 'WITHSCORES', 'LIMIT', 0, 1000)
  for i = 1, #over, 2 do
    if tonumber(over[i + 1]) < 0 then
      redis.call('ZREM', name .. ':holds', over[i])
    else
      give_back(name, over[i], 'lapse')
    end
  end
end

-- How `count` more fit a window that so far has seen `text` ("part:count …"): what is left before it, ms until it would
-- fit (0: it does, -1: never), and the window with it. A part counts as long as any of it lies in the window.
local function window(text, now, limit, window_ms, count)
  local part, parts, left = math.floor(now * PARTS / window_ms), {}, limit  -- exact: the products are below 2^53
  local function gone_ms(index)
    return math.ceil((index + PARTS + 1) * window_ms / PARTS) - now
  end
  for index, seen in string.gmatch(text or '', '(%d+):(%d+)') do
    if tonumber(index) >= part - PARTS then
      table.insert(parts, {tonumber(index), tonumber(seen)})
      left = left - seen
    end
  end
  if count > limit then
    return left, -1
  end
  local freed, retry_ms = left, 0
  for _, entry in ipairs(parts) do
    if freed >= count then
      break
    end
    freed = freed + entry[2]
    retry_ms = gone_ms(entry[1])
  end
  if retry_ms > 0 then
    return left, retry_ms
  end
  if #parts > 0 and parts[#parts][1] == part then
    parts[#parts][2] = parts[#parts][2] + count
  else
    table.insert(parts, {part, count})
  end
  for i, entry in ipairs(parts) do
    parts[i] = digits(entry[1]) .. ':' .. digits(entry[2])
  end
  return left, 0, table.concat(parts, ' '), gone_ms(part)
end
