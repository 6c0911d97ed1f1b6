-- What every script on a key begins with: the clock, a budget brought up to date, the ledger, usage, windows.
-- A key is the hash sdb:{ID}; whatever else it owns begins with that name, and so lies in the same hash slot.
local DAY_S = 86400
local LEDGER_LINES, LEDGER_SLACK, USAGE_S = 10000, 100, 400 * DAY_S
local REFUSAL_LOGGED_EVERY_S = 60
local SWEPT_EVERY_MS, HOLD_LIFE_MS = 10000, 120000
local PARTS = 12  -- of a window: a place is free again at most a twelfth of the window too late, never too early

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function digits(number)
  return string.format('%.0f', number)
end

-- A list of text and not a stream: to append to one costs half as much.
local function ledger(name, now, kind, count, used, granted)
  local line = string.format('%.0f %s %s %s %s', now, kind, count, used, granted)
  if redis.call('RPUSH', name .. ':ledger', line) > LEDGER_LINES + LEDGER_SLACK then
    redis.call('LTRIM', name .. ':ledger', -LEDGER_LINES, -1)
  end
end

local function count_usage(name, now, model, outcome, count)
  local hours = math.floor(now / 3600000)
  local day = name .. ':usage:' .. math.floor(hours / 24)
  if redis.call('HINCRBY', day, hours .. ':' .. outcome .. ':' .. model, count) == tonumber(count) then
    redis.call('EXPIRE', day, USAGE_S)
  end
end

-- 1 if a key was not refused for this reason for a while, else 0: so often a refusal is logged.
local function first_refusal(name, code)
  return redis.call('SET', name .. ':refused:' .. code, 1, 'NX', 'EX', REFUSAL_LOGGED_EVERY_S) and 1 or 0
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
local function give_back(name, now, id, held, kind)
  redis.call('HDEL', name, 'held:' .. id)
  local period, allowance, grants = string.match(held, '^%d+:(%d+):(%d+):(%d+)$')
  local used = 0
  if redis.call('HGET', name, 'period') == period then
    used = redis.call('HINCRBY', name, 'used', 0 - allowance)  -- `-` alone makes -0 of 0, which no store counts with
  else
    allowance, used = 0, redis.call('HGET', name, 'used')
  end
  ledger(name, now, kind, digits(0 - allowance - grants), digits(used), digits(redis.call('HINCRBY', name, 'granted', grants)))
end

-- Whether a key is to be swept: it is time, or the clock has gone back since it was said when.
local function to_sweep(due, now)
  return now >= due or due > now + SWEPT_EVERY_MS
end

-- Give back what nobody settled in time, and forget who settled long ago. `due` is when the next hold lapses, or sooner.
-- A hold of a clock that has gone back lives as long as a new one.
local function sweep(name, now)
  local fields, due = redis.call('HGETALL', name), now + SWEPT_EVERY_MS
  for i = 1, #fields, 2 do
    local id = string.match(fields[i], '^held:(.*)$')
    local ends = id and tonumber(string.match(fields[i + 1], '^%d+'))
    if id and ends <= now then
      give_back(name, now, id, fields[i + 1], 'lapse')
    elseif id then
      if ends > now + HOLD_LIFE_MS then
        ends = now + HOLD_LIFE_MS
        redis.call('HSET', name, fields[i], digits(ends) .. string.match(fields[i + 1], ':.*$'))
      end
      due = math.min(due, ends)
    end
  end
  redis.call('ZREMRANGEBYSCORE', name .. ':settled', 0, now)
  redis.call('HSET', name, 'due', digits(due))
end

-- Bring a key's budget up to date: a refill that is due, holds that nobody settled in time. A refill of a clock that has
-- gone back is due when a new one would be.
local function renew(name, now)
  local key = redis.call('HMGET', name, 'resets_at', 'refill', 'due')
  if not key[3] then
    return  -- no such key
  end
  if key[1] == '' and key[2] ~= 'none' then
    redis.call('HSET', name, 'resets_at', next_reset(now, key[2]))
  elseif key[1] ~= '' and now >= key[1] * 1000 then
    redis.call('HSET', name, 'used', 0, 'resets_at', next_reset(now, key[2]))
    redis.call('HINCRBY', name, 'period', 1)
    ledger(name, now, 'refill', 0, 0, redis.call('HGET', name, 'granted'))
  elseif key[1] ~= '' and key[1] + 0 > next_reset(now, key[2]) then
    redis.call('HSET', name, 'resets_at', next_reset(now, key[2]))
  end
  if to_sweep(tonumber(key[3]), now) then
    sweep(name, now)
  end
end

-- How `count` more fit a window that so far has seen `text` ("total part:count …", the newest part first): what is left
-- before it, ms until it would fit (0: it does, -1: never), the window with it, and ms until all of it is there again.
-- A part counts as long as any of it lies in the window, and not if it lies ahead: then the clock has gone back.
local function window(text, now, limit, window_ms, count)
  local part = math.floor(now * PARTS / window_ms)  -- exact: the products are below 2^53
  local function gone_ms(index)
    return math.ceil((index + PARTS + 1) * window_ms / PARTS) - now
  end
  local total, newest, seen, older = string.match(text or '', '^(%d+) (%d+):(%d+)(.*)$')
  if newest and newest + 0 == part and total + count <= limit then  -- nothing has left the window since
    return limit - total, 0, string.format('%.0f %s:%.0f%s', total + count, newest, seen + count, older), gone_ms(part)
  end
  local parts, left = {}, limit
  for index, images in string.gmatch(text or '', '(%d+):(%d+)') do
    if tonumber(index) >= part - PARTS and tonumber(index) <= part + 1 then
      table.insert(parts, {tonumber(index), tonumber(images)})
      left = left - images
    end
  end
  if count > limit then
    return left, -1
  end
  local freed, retry_ms = left, 0
  for i = #parts, 1, -1 do
    if freed >= count then
      break
    end
    freed = freed + parts[i][2]
    retry_ms = gone_ms(parts[i][1])
  end
  if retry_ms > 0 then
    return left, retry_ms
  end
  if #parts > 0 and parts[1][1] == part then
    parts[1][2] = parts[1][2] + count
  else
    table.insert(parts, 1, {part, count})
  end
  for i, entry in ipairs(parts) do
    parts[i] = digits(entry[1]) .. ':' .. digits(entry[2])
  end
  return left, 0, digits(limit - left + count) .. ' ' .. table.concat(parts, ' '), gone_ms(part)
end
