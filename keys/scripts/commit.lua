-- Change a key and write the audit log, in one atomic step, if neither has moved since they were read.
-- KEYS  1 the key, 2 the audit log, 3 its head, 4 the record of this change
-- ARGV  1 the head that was read, 2 the revision of the key that was read (empty: there was no key),
--       3 the new head, 4 the entry of the log, 5 what to record, 6 its life in s, 7 the commands, a JSON array of arrays,
--       8 kind and 9 count of the line in the key's ledger, or empty
-- Gives {"committed"}, {"moved"} or {"done", what was recorded}: a change that has a record was made before.
local done = redis.call('GET', KEYS[4])
if done then
  return {'done', done}
end
if (redis.call('GET', KEYS[3]) or '') ~= ARGV[1] or (redis.call('HGET', KEYS[1], 'revision') or '') ~= ARGV[2] then
  return {'moved'}
end
local now = clock()
renew(KEYS[1], now)
for _, command in ipairs(cjson.decode(ARGV[7])) do
  redis.call(unpack(command))
end
if ARGV[8] ~= '' then
  ledger(KEYS[1], now, ARGV[8], ARGV[9], unpack(redis.call('HMGET', KEYS[1], 'used', 'granted')))
end
redis.call('XADD', KEYS[2], '*', 'entry', ARGV[4])
redis.call('SET', KEYS[3], ARGV[3])
redis.call('SET', KEYS[4], ARGV[5], 'EX', ARGV[6])
return {'committed'}
