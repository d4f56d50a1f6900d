-- A job's record and its indexes.
--
-- ARGV[1] is the operation, ARGV[2] the job's id, the rest its arguments; times come from the server's own clock.
-- Python prepends these constants: PREFIX, CELERY_PREFIX, SCHEMA, STEPS,
-- SEPARATOR, QUEUES.

local ENDED = {succeeded = true, failed = true, cancelled = true}

local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6
local function as_text(time) return string.format('%.6f', time) end
local now_text = as_text(now)

local function job_key(id) return PREFIX .. 'job:' .. id end
local function get(id, field) return redis.call('HGET', job_key(id), field) or '' end

-- Sets several fields of a record in one call.
local function fields(id, ...)
  local found = redis.call('HMGET', job_key(id), ...)
  for place = 1, #found do found[place] = found[place] or '' end
  return unpack(found)
end

local function number(id, field) return tonumber(get(id, field)) or 0 end
local function set(id, field, value) redis.call('HSET', job_key(id), field, value) end

-- Fails before anything is written when the caller's role (docs/machines.md) lacks DEL: `submitter` and `reader`.
local function demand_rights() redis.call('DEL', PREFIX .. 'rights') end

-- Returns the strings of a JSON list in a record. A damaged list counts as empty, so that it blocks no other job.
local function texts_of(json)
  local is_read, list = pcall(cjson.decode, json)
  local texts = {}
  for _, entry in ipairs(is_read and type(list) == 'table' and list or {}) do
    if type(entry) == 'string' then texts[#texts + 1] = entry end
  end
  return texts
end

-- The sets of ids by time of submission in which a job stays for as long as its record.
local function lasting_indexes(id)
  local names = {'all', 'kind:' .. get(id, 'kind'), 'queue:' .. get(id, 'queue'), 'name:' .. get(id, 'name')}
  for _, tag in ipairs(texts_of(get(id, 'tags'))) do names[#names + 1] = 'tag:' .. tag end
  for _, parent in ipairs(texts_of(get(id, 'parents'))) do names[#names + 1] = 'parent:' .. parent end
  local owner, retry_of = get(id, 'owner'), get(id, 'retry_of')
  if owner ~= '' then names[#names + 1] = 'owner:' .. owner end
  if retry_of ~= '' then names[#names + 1] = 'retry_of:' .. retry_of end
  return names
end

local function index(id)
  local created_at = as_text(number(id, 'created_at'))
  for _, name in ipairs(lasting_indexes(id)) do redis.call('ZADD', PREFIX .. 'by:' .. name, created_at, id) end
  redis.call('ZADD', PREFIX .. 'ids', 0, id)
end

local function unindex(id)
  for _, name in ipairs(lasting_indexes(id)) do redis.call('ZREM', PREFIX .. 'by:' .. name, id) end
  redis.call('ZREM', PREFIX .. 'ids', id)
end

local function live_key(id, state) return PREFIX .. 'queue:' .. get(id, 'queue') .. ':' .. state end
local function order_key(queue) return PREFIX .. 'queue:' .. queue .. ':order' end

-- Records an event in the job's history. A claim includes its token, to attribute what the attempt leaves behind.
local function record_event(id, state, reason, token)
  local attempt, worker = fields(id, 'attempt', 'worker')
  redis.call('RPUSH', PREFIX .. 'events:' .. id, cjson.encode({
    at = now_text, state = state, reason = reason, attempt = tonumber(attempt) or 0, worker = worker, token = token,
  }))
end
