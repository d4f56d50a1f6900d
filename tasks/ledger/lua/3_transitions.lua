-- The state transitions. No other code writes a job's state.

-- Releases what a running job holds: its lease and its device.
local function release(id)
  redis.call('ZREM', PREFIX .. 'leases', id)
  redis.call('HDEL', PREFIX .. 'devices', id)
end

local BRIEF_BYTES = 400

local function leave_state(id)
  local state = get(id, 'state')
  if state == '' then return end
  redis.call('ZREM', PREFIX .. 'by:state:' .. state, id)
  redis.call('ZREM', live_key(id, state), id)
  if state == 'queued' then leave_order(id) end
end

local function enter_queue(id)
  local is_back = get(id, 'turn') ~= ''
  set(id, 'queued_at', now_text); set(id, 'started_at', '')
  give_turn(id)
  offer(id, is_back)
end

-- All that a job makes, by the two fields of its record.
local function made_by(artifact, more)
  local made = {}
  if artifact and artifact ~= '' then made[1] = artifact end
  for _, other in ipairs(texts_of(more or '')) do made[#made + 1] = other end
  return made
end

-- Releases the claims of this job: the artifact it was producing, the checkpoint it was to take over.
local function let_go(what, key, id)
  if key ~= '' and redis.call('HGET', PREFIX .. what, key) == id then redis.call('HDEL', PREFIX .. what, key) end
end

-- Only a job that ran counts for its queue's throughput: a purge is not work done.
local function enter_end(id, state, ran)
  set(id, 'finished_at', now_text)
  count_end(id, state, ran)
  redis.call('ZADD', PREFIX .. 'ended', now_text, id)
  local recent = PREFIX .. 'queue:' .. get(id, 'queue') .. ':ended'
  if ran then
    redis.call('ZADD', recent, now_text, id)
    redis.call('ZADD', recent .. ':' .. state, now_text, id)
  end
  for _, ending in ipairs({'', ':succeeded', ':failed', ':cancelled'}) do
    redis.call('ZREMRANGEBYSCORE', recent .. ending, '-inf', now - 900)
  end
  for _, artifact in ipairs(made_by(get(id, 'artifact'), get(id, 'more_artifacts'))) do
    let_go('coming', artifact, id)
  end
  let_go('heirs', get(id, 'from_checkpoint'), id)
end

-- Makes one state transition.
local function move(id, state, reason, token)
  local before, owner, created_at = fields(id, 'state', 'owner', 'created_at')
  leave_state(id)
  if before == 'running' then count_wait(id) end
  if state ~= 'running' then release(id) end
  redis.call('HSET', job_key(id), 'state', state, 'reason', reason)
  redis.call('ZADD', PREFIX .. 'by:state:' .. state, as_text(tonumber(created_at) or 0), id)
  if not ENDED[state] then redis.call('ZADD', live_key(id, state), now_text, id) end
  if state == 'waiting' or state == 'queued' then
    redis.call('ZADD', unstarted_key(owner), now_text, id)
  elseif before == 'waiting' or before == 'queued' then
    redis.call('ZREM', unstarted_key(owner), id)
  end
  usage_read[owner] = nil
  if state == 'queued' then enter_queue(id) end
  if state == 'running' then set(id, 'started_at', now_text) end
  if ENDED[state] then enter_end(id, state, before == 'running') end
  record_event(id, state, reason, token)
  if before == 'running' then offer_held_back(owner) end
end

-- Truncates a text to a bounded number of bytes without splitting a character.
local function brief(text)
  if #text <= BRIEF_BYTES then return text end
  return (string.gsub(string.sub(text, 1, BRIEF_BYTES), '[\192-\255]?[\128-\191]*$', '')) .. '...'
end

-- How people call a job: by its name, else by its id.
local function name_of(id)
  local name = get(id, 'name')
  return brief(name ~= '' and name or id)
end

-- The reason of a waiting job: the names of two of the parents that it waits for, and how many more these are.
local function waits_for(id)
  local parents, names = redis.call('SMEMBERS', PREFIX .. 'waits:' .. id), {}
  table.sort(parents)
  for place = 1, math.min(2, #parents) do names[place] = name_of(parents[place]) end
  if #parents > 2 then return 'waits for ' .. table.concat(names, ', ') .. ' and ' .. #parents - 2 .. ' more' end
  return 'waits for ' .. table.concat(names, ' and ')
end

-- Applies a job's end to the jobs that wait for it, and to those that wait for them. `cause` is that of the first.
local function end_job(id, state, reason)
  local ending = {{id, state, reason, ''}}
  while #ending > 0 do
    local parent, how, why, cause = unpack(table.remove(ending))
    if not ENDED[get(parent, 'state')] then move(parent, how, why) end  -- a child of two that ended is here twice
    local children = redis.call('SMEMBERS', PREFIX .. 'children:' .. parent)
    table.sort(children)  -- those that were submitted first start first
    for _, child in ipairs(children) do
      redis.call('SREM', PREFIX .. 'waits:' .. child, parent)
      redis.call('SREM', PREFIX .. 'children:' .. parent, child)
      if get(child, 'state') == 'waiting' then
        if how ~= 'succeeded' then
          local which = name_of(parent) .. ' (' .. get(parent, 'kind') .. ') ' .. how
          local first = cause ~= '' and cause or which .. ': ' .. brief(why)
          ending[#ending + 1] = {child, how, 'its parent ' .. (cause ~= '' and which .. ': ' or '') .. first, first}
        elseif redis.call('SCARD', PREFIX .. 'waits:' .. child) == 0 then
          move(child, 'queued', 'its parents are done')
        else
          set(child, 'reason', waits_for(child))
        end
      end
    end
  end
end

-- The reason of a cancelled job: the requester, then how it ended.
local function cancelled_because(id, how)
  local requested = get(id, 'cancel_reason')
  return (requested ~= '' and requested or 'cancelled by the user') .. '; ' .. how
end

-- Requeues a running job, or ends it when it was cancelled or its attempts are used up.
local function put_back(id, reason, is_loss)
  local losses = number(id, 'losses')
  if is_loss then losses = losses + 1; set(id, 'losses', losses) end
  if get(id, 'cancel_requested') == '1' then
    end_job(id, 'cancelled', cancelled_because(id, reason))
  elseif losses >= number(id, 'max_attempts') then
    set(id, 'error', cjson.encode({type = 'WorkerLost', message = reason .. ' (' .. losses .. ' times; given up)'}))
    end_job(id, 'failed', reason)
  else
    move(id, 'queued', reason)
  end
end

local function holds(id, token) return get(id, 'state') == 'running' and get(id, 'token') == token end
