-- Add an image key and let the active ones of its scheme end, in one atomic step.
-- KEYS  1 the key's hash, 2 its image keys
-- ARGV  1 kid, 2 entry (JSON), 3 overlap in ms, 4 most that may be in use, 5 most retired ones that stay listed
-- Gives "issued", "unknown", "revoked" or "too many". A repeated call with the same kid changes nothing.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local state = redis.call('HGET', KEYS[1], 'state')
if not state or state == 'revoked' then
  return state or 'unknown'
end
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then
  return 'issued'
end

local fresh, changed, retired, in_use, last = cjson.decode(ARGV[2]), {}, {}, 1, 0
local all = redis.call('HGETALL', KEYS[2])
for i = 1, #all, 2 do
  local kid, entry = all[i], cjson.decode(all[i + 1])
  last = math.max(last, entry.number)
  if entry.scheme == fresh.scheme and not entry.ends_at then
    entry.ends_at = now + tonumber(ARGV[3])
    changed[kid] = entry
  end
  if not entry.ends_at or now < entry.ends_at then
    in_use = in_use + 1
  else
    table.insert(retired, {kid = kid, number = entry.number})
    if entry.secret then
      entry.secret = nil
      changed[kid] = entry
    end
  end
end
if in_use > tonumber(ARGV[4]) then
  return 'too many'
end

fresh.number = last + 1
changed[ARGV[1]] = fresh
for kid, entry in pairs(changed) do
  redis.call('HSET', KEYS[2], kid, cjson.encode(entry))
end
table.sort(retired, function(one, other) return one.number > other.number end)
for i = tonumber(ARGV[5]) + 1, #retired do
  redis.call('HDEL', KEYS[2], retired[i].kid)
end
return 'issued'
