-- Queue order, and the Celery messages that mirror it.
--
-- A job's step follows from its priority as in Celery's Redis transport: step 0 is served first. Within a step the
-- older job comes first, by the number it got when it was first queued. A message is a message of Celery's protocol 2 that
-- carries a job's id and nothing else. While a queue is paused its messages are in lists that no worker reads.

local function is_paused(queue) return redis.call('HEXISTS', PREFIX .. 'paused', queue) == 1 end

local function list_name(queue, step) return step == 0 and queue or queue .. SEPARATOR .. step end
local function read_list(queue, step) return CELERY_PREFIX .. list_name(queue, step) end
local function held_list(queue, step) return PREFIX .. 'held:' .. list_name(queue, step) end
local function message_list(queue, step) return (is_paused(queue) and held_list or read_list)(queue, step) end

local function step_of(id)
  local raised, priority = fields(id, 'raised', 'priority')
  if raised == '1' then return 0 end
  return math.max(0, STEPS - 1 - (tonumber(priority) or 0))
end

-- The score that orders a job within its step; `place` 'top' puts it before all others of its queue.
local function give_turn(id, place)
  if place == 'top' then set(id, 'turn', redis.call('DECR', PREFIX .. 'first_turn')) end
  if get(id, 'turn') == '' then set(id, 'turn', redis.call('INCR', PREFIX .. 'last_turn')) end
end

local function score_of(id) return step_of(id) * 1e13 + number(id, 'turn') end

-- The jobs in a queue's order, by their owner and by whether they may use a GPU.
local function need_of(id) return get(id, 'may_use_gpu') == '1' and 'gpu' or 'cpu' end
local function ready_key(queue, need, owner) return PREFIX .. 'queue:' .. queue .. ':ready:' .. need .. ':' .. owner end

-- Those whose owner's quota is reached: in no order and without a message until the quota has room.
local function over_key(queue) return PREFIX .. 'queue:' .. queue .. ':over_quota' end
local function over_key_of(queue, need, owner) return over_key(queue) .. ':' .. need .. ':' .. owner end

-- Owners with jobs in a queue's order since that was last empty, each by when a job of it last started; see 3_turns.lua.
local function owners_key(queue) return PREFIX .. 'queue:' .. queue .. ':owners' end

-- An empty queue forgets its turns.
local function forget_turns_if_empty(queue)
  if redis.call('EXISTS', order_key(queue)) == 1 then return end
  redis.call('ZREMRANGEBYSCORE', owners_key(queue), '-inf', '+inf')
end

-- Inserts a queued job into its queue's order.
local function enter_order(id)
  local queue, score, owner = get(id, 'queue'), score_of(id), get(id, 'owner')
  redis.call('ZADD', order_key(queue), score, id)
  redis.call('ZADD', ready_key(queue, need_of(id), owner), score, id)
  redis.call('ZADD', owners_key(queue), 'NX', 0, owner)
end

local function leave_order(id)
  local queue, owner, over_quota, may_use_gpu = fields(id, 'queue', 'owner', 'over_quota', 'may_use_gpu')
  local need = may_use_gpu == '1' and 'gpu' or 'cpu'
  redis.call('ZREM', order_key(queue), id)
  redis.call('ZREM', ready_key(queue, need, owner), id)
  forget_turns_if_empty(queue)
  if over_quota == '1' then
    redis.call('ZREM', over_key(queue), id)
    redis.call('ZREM', over_key_of(queue, need, owner), id)
    set(id, 'over_quota', '')
  end
end

local function message_of(id, step)
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

-- Enqueues the message of a queued job: behind those of its step, or first if it waited there already.
local function enqueue(id, is_first)
  local step = step_of(id)
  redis.call(is_first and 'RPUSH' or 'LPUSH', message_list(get(id, 'queue'), step), message_of(id, step))
  set(id, 'rung_at', now_text)
end

local function message_count(queue)
  local count = 0
  for step = 0, STEPS - 1 do count = count + redis.call('LLEN', read_list(queue, step)) end
  return count
end
