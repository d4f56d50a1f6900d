-- What all workers on this Redis must share: the record of the fleet. No job is named: ARGV[2] is '' or a worker's name.

-- 'ok' where that is the record, or there was none; else the record.
function operations.join_fleet(_, record)
  local known = redis.call('GET', PREFIX .. 'fleet')
  if known and known ~= record then return known end
  redis.call('SET', PREFIX .. 'fleet', record)
  return 'ok'
end

local function forget_shared()
  redis.call('DEL', PREFIX .. 'fleet')
  forget_all_nonces()
end

local function name_key(worker) return PREFIX .. 'name:' .. worker end

-- Who has a worker's name, or nil: a JSON object with the token of that worker.
local function holder_of(worker)
  local is_text, text = pcall(redis.call, 'GET', name_key(worker))
  local is_read, holder = pcall(cjson.decode, is_text and text or '')
  if is_read and type(holder) == 'table' and type(holder.since) == 'number' then return holder end
end

-- What else a worker left whose lock another one has now: the name it had, and its heartbeat if it was refused one.
local function is_free_after(tokens, other, worker)
  local is_free = not other
  for _, token in ipairs(tokens) do
    is_free = is_free or other.token == token
    redis.call('HDEL', PREFIX .. 'workers', worker .. ' ' .. token)
  end
  return is_free
end

local FORGOTTEN_AFTER = 86400

-- Heartbeats of workers that ended in no good order and never came back: each Kubernetes pod has a name of its own.
local function forget_lost_workers()
  local lines = redis.call('HGETALL', PREFIX .. 'workers')
  for place = 1, #lines, 2 do
    local is_read, heartbeat = pcall(cjson.decode, lines[place + 1])
    local seen_at = is_read and type(heartbeat) == 'table' and heartbeat.seen_at
    if type(seen_at) == 'number' and now - seen_at > FORGOTTEN_AFTER then
      redis.call('HDEL', PREFIX .. 'workers', lines[place])
    end
  end
end

-- holder: who takes the name, with the tokens of earlier workers that had its lock. 'ok' when the name is free, its own,
-- or theirs; else who has it.
function operations.take_name(worker, holder, ttl)
  local mine, other, ttl_ms = cjson.decode(holder), holder_of(worker), tonumber(ttl) * 1000
  if other and other.token == mine.token then
    redis.call('PEXPIRE', name_key(worker), ttl_ms)
    return 'ok'
  end
  if not is_free_after(mine.predecessors, other, worker) then return cjson.encode(other) end
  mine.since, mine.predecessors = now, nil
  redis.call('SET', name_key(worker), cjson.encode(mine), 'PX', ttl_ms)
  forget_lost_workers()
  return 'ok'
end

-- A heartbeat: a line for a field of the hash, with the time in each of the fields that are named last. holder: '' or who
-- keeps the worker's name by it; nothing is written when that is another's. Then maintenance is done with `settings`,
-- if any. Answers the time, and 'ok' or who has the name.
function operations.heartbeat(worker, field, line, holder, ttl, settings, ...)
  local answer = holder == '' and 'ok' or operations.take_name(worker, holder, ttl)
  if answer == 'ok' then
    for _, stamped in ipairs({...}) do line = '{"' .. stamped .. '": ' .. now_text .. ', ' .. string.sub(line, 2) end
    redis.call('HSET', PREFIX .. 'workers', field, line)
    if settings ~= '' then operations.maintain('', settings) end
  end
  return now_text .. ' ' .. answer
end

-- A worker has ended in good order; with the last of them the record goes, so that the next may bring another store.
-- token: '' or its own, so that it takes away no other's name. field: '' or that of a heartbeat beside another's.
function operations.forget_worker(worker, token, field)
  local other = holder_of(worker)
  if token == '' or not other or other.token == token then
    redis.call('DEL', name_key(worker))
    redis.call('HDEL', PREFIX .. 'workers', worker)
  end
  redis.call('HDEL', PREFIX .. 'workers', field)
  if redis.call('EXISTS', PREFIX .. 'workers') == 0 then forget_shared() end
  return 'ok'
end

-- Forget what the workers shared, unless one of them lives, whose name is the answer then.
function operations.forget_fleet(_, ttl)
  demand_rights()
  local lines = redis.call('HGETALL', PREFIX .. 'workers')
  for place = 1, #lines, 2 do
    local read, heartbeat = pcall(cjson.decode, lines[place + 1])
    local lives = read and type(heartbeat) == 'table' and type(heartbeat.seen_at) == 'number' and now - heartbeat.seen_at <= tonumber(ttl)
    if lives and (heartbeat.refused or '') == '' then return lines[place] end
  end
  forget_shared()
  return 'ok'
end
