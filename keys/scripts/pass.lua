-- One window for a caller without a key. Gives {remaining, ms until it would fit (0: it does, -1: never), reset in ms}.
-- KEYS  1 the window     ARGV  1 limit, 2 length in ms, 3 images
local now = clock()
local left, retry_ms, text, reset_ms =
  window(redis.call('GET', KEYS[1]), now, tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]))
if retry_ms ~= 0 then
  return {digits(left), digits(retry_ms), '0'}
end
redis.call('SET', KEYS[1], text, 'PX', reset_ms)
return {digits(left - ARGV[3]), '0', digits(reset_ms)}
