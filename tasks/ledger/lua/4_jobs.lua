-- Operations on one job. Each returns a word.

local operations = {}

local function refuse_submit(records)
  local made, artifacts = {}, {}
  for _, record in ipairs(records) do
    if made[record.id] or redis.call('EXISTS', job_key(record.id)) == 1 then return 'exists ' .. record.id end
    for _, artifact in ipairs(made_by(record.artifact, record.more_artifacts)) do
      local maker = artifacts[artifact] or redis.call('HGET', PREFIX .. 'coming', artifact)
      if maker then return 'taken ' .. artifact .. ' ' .. maker end
      artifacts[artifact] = record.id
    end
    for _, parent in ipairs(cjson.decode(record.parents or '[]')) do
      local state = made[parent] and 'queued' or get(parent, 'state')
      if state == '' then return 'no parent ' .. parent end
      if state == 'failed' or state == 'cancelled' then
        return 'parent ' .. name_of(parent) .. ' ' .. state .. ': ' .. brief(get(parent, 'reason'))
      end
    end
    made[record.id] = true
  end
  return refuse_unstarted(records)
end

-- records: JSON list of the fields of new jobs, parents before their children. All are accepted, or none. id is unused.
function operations.submit(_, records)
  records = cjson.decode(records)
  local refusal = refuse_submit(records)
  if refusal then return refusal end
  for place, record in ipairs(records) do
    local id, waits = record.id, 0
    for field, value in pairs(record) do set(id, field, value) end
    set(id, 'created_at', as_text(now + place * 1e-6))  -- no two of them at once, so that lists have one order
    index(id)
    for _, artifact in ipairs(made_by(record.artifact, record.more_artifacts)) do
      redis.call('HSET', PREFIX .. 'coming', artifact, id)
    end
    if record.from_checkpoint then redis.call('HSET', PREFIX .. 'heirs', record.from_checkpoint, id) end
    for _, parent in ipairs(cjson.decode(record.parents or '[]')) do
      if get(parent, 'state') ~= 'succeeded' then
        waits = waits + redis.call('SADD', PREFIX .. 'waits:' .. id, parent)
        redis.call('SADD', PREFIX .. 'children:' .. parent, id)
      end
    end
    if waits > 0 then move(id, 'waiting', waits_for(id)) else move(id, 'queued', 'submitted') end
  end
  return 'ok'
end

local function start(id, token, worker, host, pid, ttl, takes_turn)
  local queue, kind, attempt, owner = fields(id, 'queue', 'kind', 'attempt', 'owner')
  count('attempts', kind)
  redis.call('HSET', job_key(id), 'attempt', (tonumber(attempt) or 0) + 1, 'token', token, 'worker', worker,
    'worker_pid', pid, 'host', host, 'device', '', 'progress', '', 'progress_at', '')
  redis.call('HSET', PREFIX .. 'served_at', queue, now_text)
  if takes_turn then redis.call('ZADD', owners_key(queue), 'XX', now_text, owner) end
  redis.call('ZADD', PREFIX .. 'leases', now + tonumber(ttl), id)  -- first: a job that runs without one runs for ever
  move(id, 'running', 'claimed', token)
end

-- A worker took the message of a job that it cannot run: enqueues it for another, behind those of its step.
local function pass_on(id)
  if get(id, 'state') ~= 'queued' or get(id, 'over_quota') == '1' then return end
  enqueue(id)
  set(id, 'passed_on_at', now_text)
  offer_one_more(get(id, 'queue'), get(id, 'owner'))
end

-- The job that a token holds, which was started instead of another.
local function stand_in_key(token) return PREFIX .. 'claim:' .. token end

-- Whether a worker with these kinds, a JSON object of their digests or '', runs what a job's record says of its own. One
-- of an older version says nothing.
local function is_known(id, kinds)
  local digest = get(id, 'digest')
  return digest == '' or (kinds or '') == '' or cjson.decode(kinds)[get(id, 'kind')] == digest
end

-- queue, step: where the worker read the message ('' for none); a job moved since has a newer message.
-- kinds: what the worker knows; the message of a job of which it knows something else is for another worker.
-- stand_ins: JSON list of the kinds that may start instead of the job, '' for none. 'ok ID' when another one has started.
function operations.claim(id, token, worker, host, pid, ttl, queue, step, kinds, stand_ins)
  if holds(id, token) then return 'ok' end  -- asked again
  local stand_in = redis.call('GET', stand_in_key(token))
  if stand_in and holds(stand_in, token) then return 'ok ' .. stand_in end
  local state, own_queue, owner = fields(id, 'state', 'queue', 'owner')
  if state ~= 'queued' then return 'not queued' end
  if not is_known(id, kinds) then pass_on(id); return 'another version' end
  if queue ~= '' and (queue ~= own_queue or tonumber(step) ~= step_of(id)) then return 'moved' end
  if is_paused(own_queue) then enqueue(id, true); return 'paused' end
  if not redis.call('ZSCORE', ready_key(own_queue, need_of(id), owner), id) then enter_order(id) end  -- as older ones left it
  local is_over, chosen, takes_turn = reached_by(id), id, has_turns(own_queue)
  if (stand_ins or '') ~= '' and (takes_turn or quota_of(owner)) then
    local allowed = {}
    for _, kind in ipairs(cjson.decode(stand_ins)) do allowed[kind] = true end
    chosen = choose(id, function(other) return allowed[get(other, 'kind')] and is_known(other, kinds) end)
  elseif is_over then
    chosen = nil
  end
  if is_over then hold_back(id) elseif chosen ~= id then enqueue(id, true) end
  if not chosen then return 'over quota' end
  start(chosen, token, worker, host, pid, ttl, takes_turn)
  if chosen == id then return 'ok' end
  redis.call('SET', stand_in_key(token), chosen, 'EX', 60)  -- for who asks again; by then the lease has run out
  return 'ok ' .. chosen
end

function operations.renew(id, token, ttl)
  if not holds(id, token) then return 'lost' end
  redis.call('ZADD', PREFIX .. 'leases', now + tonumber(ttl), id)
  if get(id, 'cancel_requested') == '1' then return 'cancel' end
  return 'ok'
end

-- at, metrics: the metrics since the last report, and their step; '' for none.
function operations.progress(id, token, progress, at, metrics)
  if not holds(id, token) then return 'lost' end
  if get(id, 'progress') ~= progress then set(id, 'progress_at', now_text) end
  set(id, 'progress', progress)
  if metrics ~= '' then
    set(id, 'metrics', metrics)
    add_point(id, at, metrics)
  end
  return 'ok'
end

function operations.note(id, token, sentence)
  if not holds(id, token) then return 'lost' end
  record_event(id, 'running', sentence)
  return 'ok'
end

-- Idempotent: the reply to a first call may have been lost with the connection.
function operations.finish(id, token, state, reason, result, failure)
  if get(id, 'token') == token and get(id, 'state') == state then return 'ok' end
  if not holds(id, token) then return 'lost' end
  if result ~= '' then set(id, 'result', result) end
  if failure ~= '' then set(id, 'error', failure) end
  if state == 'cancelled' then reason = cancelled_because(id, reason) end
  end_job(id, state, reason)
  return 'ok'
end

function operations.put_back(id, token, reason, is_loss)
  if not holds(id, token) then return 'lost' end
  put_back(id, reason, is_loss == '1')
  return 'ok'
end

function operations.cancel(id, reason)
  local state = get(id, 'state')
  if state == '' then return 'unknown' end
  if ENDED[state] then return state end
  if get(id, 'cancel_requested') ~= '1' then set(id, 'cancel_reason', reason) end
  set(id, 'cancel_requested', '1')
  local lease = tonumber(redis.call('ZSCORE', PREFIX .. 'leases', id) or nil)
  if state == 'running' and lease and lease > now then record_event(id, state, reason); return state end
  end_job(id, 'cancelled', reason)
  return 'cancelled'
end

-- Removes the record of a job that has ended, with its index entries.
function operations.remove(id)
  local state = get(id, 'state')
  if state == '' then return 'unknown' end
  if not ENDED[state] then return state end
  demand_rights()
  leave_state(id)
  unindex(id)
  redis.call('ZREM', PREFIX .. 'ended', id)
  redis.call('UNLINK', job_key(id), series_key(id))
  redis.call('UNLINK', PREFIX .. 'events:' .. id, PREFIX .. 'waits:' .. id, PREFIX .. 'children:' .. id)
  return 'ok'
end

-- Fails unless the caller's role may change more than jobs.
function operations.check_rights()
  demand_rights()
  return 'ok'
end

function operations.enqueue(id)
  if get(id, 'state') ~= 'queued' or get(id, 'over_quota') == '1' then return 'not queued' end
  enqueue(id, true)
  return 'ok'
end

-- ids: JSON list of jobs whose messages a worker took that cannot run them.
function operations.pass_on(_, ids)
  for _, id in ipairs(cjson.decode(ids)) do pass_on(id) end
  return 'ok'
end
