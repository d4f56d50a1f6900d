-- What can be asked of a queue, and of a job's place in one. ARGV[2] is the queue where no job is named.

-- `held` messages come before those that a worker may have put back meanwhile.
local function take_back(queue, step)
  local held, read = held_list(queue, step), read_list(queue, step)
  local message = redis.call('RPOP', read)
  while message do
    redis.call('RPUSH', held, message)
    message = redis.call('RPOP', read)
  end
  if redis.call('EXISTS', held) == 1 then redis.call('RENAME', held, read) end
end

function operations.pause(queue)
  demand_rights()
  if is_paused(queue) then return 'paused already' end
  redis.call('HSET', PREFIX .. 'paused', queue, now_text)
  for step = 0, STEPS - 1 do
    local read = read_list(queue, step)
    if redis.call('EXISTS', read) == 1 then redis.call('RENAME', read, held_list(queue, step)) end
  end
  return 'ok'
end

function operations.resume(queue)
  demand_rights()
  if redis.call('HDEL', PREFIX .. 'paused', queue) == 0 then return 'not paused' end
  for step = 0, STEPS - 1 do take_back(queue, step) end
  return 'ok'
end

-- Cancels at most `most` of the queue's queued jobs; answers with how many.
function operations.purge(queue, reason, most)
  local ids, count = redis.call('ZRANGE', order_key(queue), 0, tonumber(most) - 1), 0
  if #ids == 0 then ids = redis.call('ZRANGE', over_key(queue), 0, tonumber(most) - 1) end
  for _, id in ipairs(ids) do
    if get(id, 'state') == 'queued' and get(id, 'queue') == queue then
      set(id, 'cancel_requested', '1')
      end_job(id, 'cancelled', reason)
      count = count + 1
    else  -- an older mistudio has started, ended or moved it
      for _, key in ipairs({order_key(queue), over_key(queue), over_key_of(queue, need_of(id), get(id, 'owner'))}) do
        redis.call('ZREM', key, id)
      end
    end
  end
  if count == 0 and #ids > 0 then return operations.purge(queue, reason, most) end
  return tostring(count)
end

-- Changes what decides a job's place, and gives a queued one a message there; its message elsewhere is stale then.
local function replace(id, change, place, reason)
  local state = get(id, 'state')
  if state == '' then return 'unknown' end
  if state ~= 'queued' and state ~= 'waiting' then return state end
  redis.call('ZREM', live_key(id, state), id)
  leave_order(id)
  change()
  redis.call('ZADD', live_key(id, state), state == 'queued' and get(id, 'queued_at') or now_text, id)
  if state == 'queued' then
    give_turn(id, place)
    offer(id, place == 'top')
  end
  record_event(id, state, reason)
  return 'ok'
end

-- queue '' leaves it where it is; place 'top' makes it the next of its queue.
function operations.move(id, queue, place)
  local reason = queue ~= '' and 'moved to ' .. queue or 'moved to the top'
  return replace(id, function()
    if queue ~= '' then
      redis.call('ZREM', PREFIX .. 'by:queue:' .. get(id, 'queue'), id)
      set(id, 'queue', queue)
      redis.call('ZADD', PREFIX .. 'by:queue:' .. queue, get(id, 'created_at'), id)
    end
    if place == 'top' then set(id, 'raised', '1') end
  end, place, reason)
end

function operations.set_priority(id, priority)
  return replace(id, function()
    set(id, 'priority', priority); set(id, 'raised', '')
  end, '', 'priority ' .. priority)
end
