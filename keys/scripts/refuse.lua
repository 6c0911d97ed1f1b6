-- Count a refusal. Gives 1 if it is the first of its kind for a while, else 0.
-- KEYS  1 the key     ARGV  1 model, 2 code of the refusal, 3 images
if ARGV[3] ~= '0' then
  count_usage(KEYS[1], clock(), ARGV[1], ARGV[2], ARGV[3])
end
return first_refusal(KEYS[1], ARGV[2])
