-- The order in which queued jobs are served, and the Celery messages ("bells") that follow it.
--
-- A job's step follows from its priority as in Celery's Redis transport: step 0 is served first. Within a step the
-- older job comes first, by the number it got when it was first queued. A bell is a message of Celery's protocol 2 that
-- carries a job's id and nothing else. While a queue is paused its bells lie in lists that no worker reads.

local function is_paused(queue) return redis.call('HEXISTS', PREFIX .. 'paused', queue) == 1 end

local function read_list(queue, step) return step == 0 and queue or queue .. SEPARATOR .. step end
local function held_list(queue, step) return PREFIX .. 'held:' .. read_list(queue, step) end
local function bell_list(queue, step) return (is_paused(queue) and held_list or read_list)(queue, step) end

local function step_of(id)
  if get(id, 'raised') == '1' then return 0 end
  return math.max(0, STEPS - 1 - number(id, 'priority'))
end

-- Puts a queued job in its place; `place` 'top' is before all others of its queue.
local function enter_order(id, place)
  if place == 'top' then set(id, 'turn', redis.call('DECR', PREFIX .. 'first_turn')) end
  if get(id, 'turn') == '' then set(id, 'turn', redis.call('INCR', PREFIX .. 'last_turn')) end
  redis.call('ZADD', order_key(get(id, 'queue')), step_of(id) * 1e13 + number(id, 'turn'), id)
end

local function bell_of(id, step)
  local queue = get(id, 'queue')
  return cjson.encode({
    body = cjson.encode({{id}, cjson.decode('{}'), {callbacks = cjson.null, errbacks = cjson.null, chain = cjson.null, chord = cjson.null}}),
    ['content-type'] = 'application/json',
    ['content-encoding'] = 'utf-8',
    headers = {
      lang = 'py', task = 'mistudio.' .. get(id, 'kind'), id = id, root_id = id, retries = 0,
      argsrepr = "['" .. id .. "']", kwargsrepr = '{}', origin = 'mistudio',
      digest = get(id, 'digest'),
    },
    properties = {
      correlation_id = id, priority = step, delivery_mode = 2, delivery_tag = id .. '-' .. now_text,
      delivery_info = {exchange = '', routing_key = queue},
    },
  })
end

-- Rings for a queued job: behind those of its step, or before them if it waited there already.
local function ring(id, is_first)
  local step = step_of(id)
  redis.call(is_first and 'RPUSH' or 'LPUSH', bell_list(get(id, 'queue'), step), bell_of(id, step))
  set(id, 'rung_at', now_text)
end

local function bells(queue)
  local count = 0
  for step = 0, STEPS - 1 do count = count + redis.call('LLEN', read_list(queue, step)) end
  return count
end
