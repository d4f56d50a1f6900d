-- What an overview reads once the ids of jobs are known, in the same round trip. It writes nothing.
--
-- ARGV: the prefix of keys; the number of running, of recent and of queued jobs (per queue) whose records are wanted; the
-- queues and the names of the sets whose entries are counted, as JSON lists; the spans of these counts in seconds.
-- `tasks/ledger/overview.py` has the same in plain commands, for users without a right to scripts.

local prefix, running, recent, queued = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local queues, ended, spans = cjson.decode(ARGV[5]), cjson.decode(ARGV[6]), cjson.decode(ARGV[7])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6

local function records(ids)
  local found = {}
  for _, id in ipairs(ids) do found[#found + 1] = redis.call('HGETALL', prefix .. 'job:' .. id) end
  return found
end

local function first(command, key, count)
  return count > 0 and redis.call(command, prefix .. key, 0, count - 1) or {}
end

local counts, waiting = {}, {}
for _, queue in ipairs(queues) do
  for _, name in ipairs(ended) do
    local key = prefix .. 'queue:' .. queue .. ':' .. name
    for _, span in ipairs(spans) do
      counts[#counts + 1] = redis.call('ZCOUNT', key, string.format('%.6f', now - span), '+inf')
    end
  end
  waiting[#waiting + 1] = records(first('ZRANGE', 'queue:' .. queue .. ':order', queued))
end

local holders = {}
for _, id in ipairs(redis.call('ZRANGE', prefix .. 'by:state:running', 0, -1)) do
  holders[#holders + 1] = redis.call('HMGET', prefix .. 'job:' .. id, 'worker', 'worker_pid')
end

return {
  counts,
  holders,
  records(first('ZREVRANGE', 'by:state:running', running)),
  records(first('ZREVRANGE', 'by:all', recent)),
  waiting,
}
