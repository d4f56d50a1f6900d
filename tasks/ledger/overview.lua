-- What an overview reads once the ids of jobs are known, in the same round trip. It writes nothing.
--
-- ARGV: the prefix of keys; the number of running, of recent and of queued jobs (per queue) whose records are wanted, and
-- of the newest that succeeded; the queues, the names of the sets whose entries are counted, the spans of these counts in
-- seconds, the fields of those that succeeded, and those of queued ones, as JSON lists.
-- `tasks/ledger/overview.py` has the same in plain commands, for users without a right to scripts.

local prefix, running, recent, queued = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local succeeded, queues, ended = tonumber(ARGV[5]), cjson.decode(ARGV[6]), cjson.decode(ARGV[7])
local spans, run_fields, queued_fields = cjson.decode(ARGV[8]), cjson.decode(ARGV[9]), cjson.decode(ARGV[10])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6

local function records(ids)
  local found = {}
  for _, id in ipairs(ids) do found[#found + 1] = redis.call('HGETALL', prefix .. 'job:' .. id) end
  return found
end

local function fields(ids, names)
  local found = {}
  for _, id in ipairs(ids) do found[#found + 1] = redis.call('HMGET', prefix .. 'job:' .. id, unpack(names)) end
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
  waiting[#waiting + 1] = fields(first('ZRANGE', 'queue:' .. queue .. ':order', queued), queued_fields)
end

return {
  counts,
  fields(redis.call('ZRANGE', prefix .. 'by:state:running', 0, -1), {'worker', 'worker_pid'}),
  records(first('ZREVRANGE', 'by:state:running', running)),
  records(first('ZREVRANGE', 'by:all', recent)),
  waiting,
  fields(first('ZREVRANGE', 'by:state:succeeded', succeeded), run_fields),
}
