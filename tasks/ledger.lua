-- The only code that changes a job's state. Each call is one atomic compare-and-set inside Redis.
--
-- ARGV[1] is the operation, ARGV[2] the job's id, the rest its arguments; times come from the server's own clock.
-- Every operation answers {status, id, id, ...}: the ids are jobs that have become queued and want their bell rung.

local PREFIX = 'mistudio:'
local ENDED = {succeeded = true, failed = true, cancelled = true}

-- What a job is expected to hold is a guess: one that is larger than any card must not keep it waiting for ever.
local MOST_OF_A_CARD = 0.8

local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6
local now_text = string.format('%.6f', now)
local to_ring = {}

local function job_key(id) return PREFIX .. 'job:' .. id end
local function get(id, field) return redis.call('HGET', job_key(id), field) or '' end
local function set(id, field, value) redis.call('HSET', job_key(id), field, value) end

local function index(id, state)
  local queue = get(id, 'queue')
  redis.call('ZADD', PREFIX .. 'by:state:' .. state, get(id, 'created_at'), id)
  if not ENDED[state] then redis.call('ZADD', PREFIX .. 'queue:' .. queue .. ':' .. state, now_text, id) end
end

local function unindex(id, state)
  redis.call('ZREM', PREFIX .. 'by:state:' .. state, id)
  redis.call('ZREM', PREFIX .. 'queue:' .. get(id, 'queue') .. ':' .. state, id)
end

local function tell(id, state, reason)
  redis.call('RPUSH', PREFIX .. 'events:' .. id, cjson.encode({
    at = now_text, state = state, reason = reason, attempt = tonumber(get(id, 'attempt')) or 0, worker = get(id, 'worker'),
  }))
end

-- Give back what a running job holds: its lease and its device.
local function release(id)
  redis.call('ZREM', PREFIX .. 'leases', id)
  redis.call('HDEL', PREFIX .. 'devices', id)
end

-- One arrow of the state diagram.
local function move(id, state, reason)
  unindex(id, get(id, 'state'))
  set(id, 'state', state)
  set(id, 'reason', reason)
  if state == 'queued' then
    set(id, 'queued_at', now_text); set(id, 'rung_at', '0'); set(id, 'started_at', '')
    to_ring[#to_ring + 1] = id
  end
  if state == 'running' then set(id, 'started_at', now_text) else release(id) end
  if ENDED[state] then
    set(id, 'finished_at', now_text)
    local artifact = get(id, 'artifact')
    if artifact ~= '' and redis.call('HGET', PREFIX .. 'coming', artifact) == id then
      redis.call('HDEL', PREFIX .. 'coming', artifact)
    end
  end
  index(id, state)
  tell(id, state, reason)
end

-- What an end means for the jobs that wait for it, and for those that wait for them.
local function end_job(id, state, reason)
  local ending = {{id, state, reason}}
  while #ending > 0 do
    local parent, how, why = unpack(table.remove(ending))
    if not ENDED[get(parent, 'state')] then move(parent, how, why) end  -- a child of two that ended is here twice
    for _, child in ipairs(redis.call('SMEMBERS', PREFIX .. 'children:' .. parent)) do
      redis.call('SREM', PREFIX .. 'waits:' .. child, parent)
      if get(child, 'state') == 'waiting' then
        if how ~= 'succeeded' then
          ending[#ending + 1] = {child, how, 'its parent ' .. parent .. ' (' .. get(parent, 'kind') .. ') ' .. how}
        elseif redis.call('SCARD', PREFIX .. 'waits:' .. child) == 0 then
          move(child, 'queued', 'its parents are done')
        end
      end
    end
    redis.call('DEL', PREFIX .. 'children:' .. parent)
  end
end

-- A running job goes back to its queue, or ends when it was cancelled or has been lost too often.
local function put_back(id, reason, is_loss)
  local losses = tonumber(get(id, 'losses')) or 0
  if is_loss then losses = losses + 1; set(id, 'losses', losses) end
  if get(id, 'cancel_requested') == '1' then
    end_job(id, 'cancelled', reason)
  elseif losses >= tonumber(get(id, 'max_attempts')) then
    set(id, 'error', cjson.encode({type = 'WorkerLost', message = reason .. ' (' .. losses .. ' times; given up)'}))
    end_job(id, 'failed', reason)
  else
    move(id, 'queued', reason)
  end
end

local function holds(id, token) return get(id, 'state') == 'running' and get(id, 'token') == token end

local operations = {}

-- fields: JSON object of the record; parents: JSON list of ids
function operations.submit(id, fields, parents)
  local record, waits = cjson.decode(fields), {}
  if redis.call('EXISTS', job_key(id)) == 1 then return 'exists' end
  local artifact = record.artifact or ''
  local maker = artifact ~= '' and redis.call('HGET', PREFIX .. 'coming', artifact)
  if maker then return 'taken by ' .. maker end
  for _, parent in ipairs(cjson.decode(parents)) do
    local state = get(parent, 'state')
    if state == '' then return 'no parent ' .. parent end
    if state == 'failed' or state == 'cancelled' then return 'parent ' .. parent .. ' ' .. state end
    if state ~= 'succeeded' then waits[#waits + 1] = parent end
  end
  for field, value in pairs(record) do set(id, field, value) end
  set(id, 'created_at', now_text)
  for _, name in ipairs({'all', 'kind:' .. record.kind, 'queue:' .. record.queue}) do
    redis.call('ZADD', PREFIX .. 'by:' .. name, now_text, id)
  end
  if artifact ~= '' then redis.call('HSET', PREFIX .. 'coming', artifact, id) end
  for _, parent in ipairs(waits) do
    redis.call('SADD', PREFIX .. 'children:' .. parent, id)
    redis.call('SADD', PREFIX .. 'waits:' .. id, parent)
  end
  if #waits > 0 then move(id, 'waiting', 'waits for its parents') else move(id, 'queued', 'submitted') end
  return 'ok'
end

function operations.claim(id, token, worker, host, pid, ttl)
  if holds(id, token) then return 'ok' end  -- asked again
  if get(id, 'state') ~= 'queued' then return 'not queued' end
  set(id, 'attempt', (tonumber(get(id, 'attempt')) or 0) + 1)
  set(id, 'token', token); set(id, 'worker', worker); set(id, 'worker_pid', pid); set(id, 'host', host); set(id, 'device', ''); set(id, 'progress', '')
  move(id, 'running', 'claimed')
  redis.call('ZADD', PREFIX .. 'leases', now + tonumber(ttl), id)
  return 'ok'
end

function operations.renew(id, token, ttl)
  if not holds(id, token) then return 'lost' end
  redis.call('ZADD', PREFIX .. 'leases', now + tonumber(ttl), id)
  if get(id, 'cancel_requested') == '1' then return 'cancel' end
  return 'ok'
end

function operations.progress(id, token, progress)
  if not holds(id, token) then return 'lost' end
  set(id, 'progress', progress)
  return 'ok'
end

-- What is leased of each card, by its key. A lease is told as 'bytes the job is expected to hold, or 0; bytes that were
-- in use by others when it came; key'.
local function read_leases()
  local cards, told = {}, redis.call('HGETALL', PREFIX .. 'devices')
  for at = 1, #told, 2 do
    local expected, others, key = told[at + 1]:match('^(%d+) (%d+) (.+)$')
    local card = cards[key] or {jobs = {}, expected = 0, others = math.huge}
    card.jobs[#card.jobs + 1] = told[at]
    card.expected = card.expected + tonumber(expected)
    card.others = math.min(card.others, tonumber(others))
    cards[key] = card
  end
  return cards
end

-- slots: how many jobs may share a card; need: bytes the job is expected to hold, or 0; cards: JSON list of {key, name,
-- total, used}, most free memory first. A card of unknown memory has neither of the last two.
function operations.lease_device(id, token, slots, need, cards)
  if not holds(id, token) then return 'lost' end
  redis.call('HDEL', PREFIX .. 'devices', id)  -- asked again: the reply to the first may have been lost
  local leased, best, refusals = read_leases(), nil, {}
  for _, card in ipairs(cjson.decode(cards)) do
    local there = leased[card.key] or {jobs = {}, expected = 0, others = math.huge}
    local others, room = math.min(there.others, card.used or 0), math.huge
    if card.total then
      -- What is in use may be others' or leased jobs' memory; what those will hold may not be in use yet.
      room = math.max(0, card.total - math.max(card.used, others + there.expected))
    end
    if #there.jobs >= tonumber(slots) then
      refusals[#refusals + 1] = {name = card.name, jobs = there.jobs}
    elseif room <= 0 or room < math.min(tonumber(need), MOST_OF_A_CARD * (card.total or 0)) then
      refusals[#refusals + 1] = {name = card.name, room = room}
    elseif not best or #there.jobs < best.load then
      best = {key = card.key, name = card.name, load = #there.jobs, others = others}
    end
  end
  if not best then return 'none ' .. cjson.encode(refusals) end
  redis.call('HSET', PREFIX .. 'devices', id, string.format('%.0f %.0f %s', tonumber(need), best.others, best.key))
  set(id, 'device', best.name); set(id, 'progress', '')
  return 'leased ' .. best.key
end

function operations.use_device(id, token, device)
  if not holds(id, token) then return 'lost' end
  set(id, 'device', device); set(id, 'progress', '')
  return 'ok'
end

-- Asking twice is harmless: the reply to the first may have been lost with the connection.
function operations.finish(id, token, state, reason, result, failure)
  if get(id, 'token') == token and get(id, 'state') == state then return 'ok' end
  if not holds(id, token) then return 'lost' end
  if result ~= '' then set(id, 'result', result) end
  if failure ~= '' then set(id, 'error', failure) end
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
  set(id, 'cancel_requested', '1')
  local lease = tonumber(redis.call('ZSCORE', PREFIX .. 'leases', id) or nil)
  if state == 'running' and lease and lease > now then tell(id, state, reason); return state end
  end_job(id, 'cancelled', reason)
  return 'cancelled'
end

-- Every running job whose lease has run out goes back to its queue. id is unused.
-- When nobody has looked for a while, or the clock was set back, the holders slept too or the clock is to blame: each
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
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', PREFIX .. 'leases', '-inf', now)) do
    if get(id, 'state') == 'running' then
      put_back(id, 'the worker ' .. get(id, 'worker') .. ' stopped renewing its lease', true)
    else
      redis.call('ZREM', PREFIX .. 'leases', id)
    end
  end
  return 'ok'
end

local operation = operations[ARGV[1]]
local answer = {operation(unpack(ARGV, 2))}
for _, id in ipairs(to_ring) do answer[#answer + 1] = id end
return answer
