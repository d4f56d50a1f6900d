-- Periodic maintenance, run by whichever worker asks first.

-- Applies a function to each entry; a damaged one, which `doctor` names, blocks none of the others.
local function on_each(entries, act)
  for _, entry in ipairs(entries) do pcall(act, entry) end
end

-- Requeues every running job whose lease has expired. id is unused.
-- After a pause without maintenance, or when the clock was set back, expired leases prove nothing: each job
-- gets a whole lease from now on.
function operations.reap(_, ttl)
  local last = tonumber(redis.call('GET', PREFIX .. 'reaped_at') or nil) or 0
  redis.call('SET', PREFIX .. 'reaped_at', now_text)
  if now < last or now - last > tonumber(ttl) / 2 then
    for _, id in ipairs(redis.call('ZRANGE', PREFIX .. 'leases', 0, -1)) do
      redis.call('ZADD', PREFIX .. 'leases', now + tonumber(ttl), id)
    end
    return 'ok'
  end
  on_each(redis.call('ZRANGEBYSCORE', PREFIX .. 'leases', '-inf', now), function(id)
    if get(id, 'state') == 'running' then
      put_back(id, 'the worker ' .. get(id, 'worker') .. ' stopped renewing its lease', true)
    else
      redis.call('ZREM', PREFIX .. 'leases', id)
    end
  end)
  return 'ok'
end

local PASSED_ON_LATELY = 60

-- Enqueues the first of a queue's jobs when it has more jobs than messages. One message too many is harmless; one that was
-- enqueued less than `patience` seconds ago may still be in transit. One that was passed on lately may be held by a worker that
-- cannot run its job: it gets another one later, and behind the others.
local function enqueue_missing(queue, patience, most)
  local queued = redis.call('ZCARD', order_key(queue))
  local missing = queued > 0 and queued - message_count(queue) or 0
  if missing <= 0 then return end
  for _, id in ipairs(redis.call('ZRANGE', order_key(queue), 0, math.min(missing, most) - 1)) do
    local was_passed_on = math.abs(now - number(id, 'passed_on_at')) <= PASSED_ON_LATELY
    local least = was_passed_on and 2 * math.abs(patience) or patience
    if math.abs(now - number(id, 'rung_at')) > least then enqueue(id, not was_passed_on) end
  end
end

local MOST_RAISED = 50

-- A queue that has jobs and was not served for `interval` seconds has its first one served next of all; after that time
-- again the one behind it, since there may be no worker that can run the first.
local function serve_the_starving(queue, interval)
  local served_at = tonumber(redis.call('HGET', PREFIX .. 'served_at', queue) or nil) or 0
  for _, id in ipairs(redis.call('ZRANGE', order_key(queue), 0, MOST_RAISED - 1)) do
    local is_raised = get(id, 'raised') == '1'
    local since = is_raised and number(id, 'raised_at') or math.max(served_at, number(id, 'queued_at'))
    if math.abs(now - since) <= interval then return end
    if not is_raised then
      set(id, 'raised', '1')
      set(id, 'raised_at', now_text)
      enter_order(id)
      enqueue(id)
      record_event(id, 'queued', 'its queue was not served for ' .. interval .. ' s: it is next')
      return
    end
  end
end

-- A worker that dies between taking a message and asking for its job leaves the message with kombu, as not acknowledged. The
-- job has another one by now; messages of others are let alone.
local function forget_lost_messages(patience)
  local unacked, index = CELERY_PREFIX .. 'unacked', CELERY_PREFIX .. 'unacked_index'
  for _, tag in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', now - patience, 'LIMIT', 0, 100)) do
    local is_read, entry = pcall(cjson.decode, redis.call('HGET', unacked, tag) or '')
    local headers = is_read and type(entry) == 'table' and type(entry[1]) == 'table' and entry[1].headers
    if type(headers) == 'table' and headers.origin == 'mistudio' then
      redis.call('ZREM', index, tag)
      redis.call('HDEL', unacked, tag)
    end
  end
end

-- Records of jobs that ended more than `age` seconds ago, and the oldest beyond `count`, are removed, some at a time.
local function retire(age, count, most)
  local ended = PREFIX .. 'ended'
  local ids = redis.call('ZRANGEBYSCORE', ended, '-inf', now - age, 'LIMIT', 0, most)
  local excess = math.min(most, redis.call('ZCARD', ended) - count)
  if #ids < excess then ids = redis.call('ZRANGE', ended, 0, excess - 1) end
  on_each(ids, operations.remove)
end

-- settings: JSON of the settings in force. Returns 'recent' when another worker has just done it.
function operations.maintain(_, settings)
  settings = cjson.decode(settings)
  local last = tonumber(redis.call('GET', PREFIX .. 'upkeep_at') or nil) or 0
  if now >= last and now - last < settings.every_s then return 'recent' end
  redis.call('SET', PREFIX .. 'upkeep_at', now_text)
  operations.reap('', settings.lease_s)
  on_each(QUEUES, function(queue)
    if not is_paused(queue) then
      serve_the_starving(queue, settings.served_within_s)
      enqueue_missing(queue, settings.message_patience_s, settings.most_messages)
    end
  end)
  local is_read, owners = pcall(redis.call, 'SMEMBERS', PREFIX .. 'over_quota')
  on_each(is_read and owners or {}, offer_held_back)
  pcall(forget_lost_messages, settings.unacked_patience_s)
  pcall(retire, settings.keep_s, settings.keep_jobs, settings.most_retired)
  operations.record_history()
  return 'ok'
end

-- Checks that Redis accepts writes: writes and removes one key of each type that the other operations write.
function operations.try_write()
  local key = PREFIX .. 'doctor'
  redis.call('DEL', key)
  redis.call('HSET', key, 'at', now_text); redis.call('DEL', key)
  redis.call('ZADD', key, now_text, 'at'); redis.call('DEL', key)
  redis.call('LPUSH', key, now_text); redis.call('DEL', key)
  return 'ok'
end
