-- Quotas of an owner: `running` jobs, jobs on `gpus`, and jobs that have not started (`queued`).
--
-- All quotas are one JSON string, which only SET and DEL change: only the roles `admin` and `worker` have these
-- commands. Usage is counted from the running jobs themselves, so no counter can be wrong.

local quotas_read, usage_read = nil, {}

local function quota_of(owner)
  if owner == '' then return nil end
  if not quotas_read then
    local is_read, quotas = pcall(function() return cjson.decode(redis.call('GET', PREFIX .. 'quotas') or '{}') end)
    quotas_read = is_read and type(quotas) == 'table' and quotas or {}  -- damaged ones, which `doctor` names, limit nothing
  end
  local quota = quotas_read[owner]
  return type(quota) == 'table' and quota or nil
end

local function limit_of(owner, what)
  local quota = quota_of(owner)
  return quota and tonumber(quota[what] or nil) or math.huge
end

-- A running job that may use a GPU counts as one that does until it has leased the processor.
local function usage_of(owner)
  if usage_read[owner] then return usage_read[owner] end
  local usage = {running = 0, gpus = 0}
  for _, id in ipairs(redis.call('ZRANGE', PREFIX .. 'by:state:running', 0, -1)) do
    if get(id, 'owner') == owner then
      usage.running = usage.running + 1
      if need_of(id) == 'gpu' and get(id, 'device') ~= 'cpu' then usage.gpus = usage.gpus + 1 end
    end
  end
  usage_read[owner] = usage
  return usage
end

-- The quota that keeps a job from starting now, or nil.
local function reached_by(id)
  local owner = get(id, 'owner')
  if not quota_of(owner) then return nil end
  local usage = usage_of(owner)
  if usage.running >= limit_of(owner, 'running') then return 'running' end
  if need_of(id) == 'gpu' and usage.gpus >= limit_of(owner, 'gpus') then return 'gpus' end
end

local MOST_OFFERED = 1000

-- Removes from the offered jobs of an owner those that an older mistudio has started, ended or moved.
local function forget_started(queue, owner)
  local found = 0
  for _, need in ipairs({'cpu', 'gpu'}) do
    local key = ready_key(queue, need, owner)
    for _, id in ipairs(redis.call('ZRANGE', key, 0, MOST_OFFERED - 1)) do
      if get(id, 'state') ~= 'queued' or get(id, 'queue') ~= queue then found = found + redis.call('ZREM', key, id) end
    end
  end
  return found > 0
end

-- How many more of an owner's jobs a queue may offer to workers, and how many more that may use a GPU. With a score only
-- the jobs before it count as offered.
local function room_in(queue, owner, score)
  local usage, last = usage_of(owner), score and '(' .. string.format('%.17g', score) or '+inf'
  local cpu = redis.call('ZCOUNT', ready_key(queue, 'cpu', owner), '-inf', last)
  local gpu = redis.call('ZCOUNT', ready_key(queue, 'gpu', owner), '-inf', last)
  local room, gpus = limit_of(owner, 'running') - usage.running - cpu - gpu, limit_of(owner, 'gpus') - usage.gpus - gpu
  if (room <= 0 or gpus <= 0) and forget_started(queue, owner) then return room_in(queue, owner, score) end
  return room, gpus
end

-- Takes a queued job out of the order until its owner's quota has room. A full Redis refuses the first of these commands.
local function hold_back(id)
  local queue, need, owner, score = get(id, 'queue'), need_of(id), get(id, 'owner'), score_of(id)
  redis.call('ZADD', over_key(queue), score, id)
  redis.call('ZADD', over_key_of(queue, need, owner), score, id)
  redis.call('SADD', PREFIX .. 'over_quota', owner)
  redis.call('ZREM', order_key(queue), id)
  redis.call('ZREM', ready_key(queue, need, owner), id)
  forget_turns_if_empty(queue)
  set(id, 'over_quota', '1')
end

-- Offers a queued job to workers, or holds it back when its owner's quota has no room beside what is offered before it.
local function offer(id, is_first)
  local owner = get(id, 'owner')
  if quota_of(owner) then
    local room, gpus = room_in(get(id, 'queue'), owner, score_of(id))
    if room <= 0 or (need_of(id) == 'gpu' and gpus <= 0) then hold_back(id); return end
  end
  enter_order(id)
  enqueue(id, is_first)
end

-- Takes the first of the jobs of an owner that a queue holds back; one that may use a GPU only `with_gpu`.
local function take_held_back(queue, owner, with_gpu)
  local first, least, key = nil, math.huge, nil
  for _, need in ipairs(with_gpu and {'cpu', 'gpu'} or {'cpu'}) do
    local found = redis.call('ZRANGE', over_key_of(queue, need, owner), 0, 0, 'WITHSCORES')
    if found[1] and tonumber(found[2]) < least then
      first, least, key = found[1], tonumber(found[2]), over_key_of(queue, need, owner)
    end
  end
  if first then
    redis.call('ZREM', key, first)
    redis.call('ZREM', over_key(queue), first)
  end
  return first
end

-- Offers what was held back and now has room, first those that were queued first; whether the queue still holds any.
local function offer_in(queue, owner)
  local room, gpus = room_in(queue, owner)
  local chosen = {}
  while room > 0 and #chosen < MOST_OFFERED do
    local id = take_held_back(queue, owner, gpus > 0)
    if not id then break end
    if get(id, 'state') == 'queued' and get(id, 'queue') == queue then  -- an older mistudio leaves others behind
      chosen[#chosen + 1] = id
      room = room - 1
      if need_of(id) == 'gpu' then gpus = gpus - 1 end
    end
  end
  for place = #chosen, 1, -1 do
    set(chosen[place], 'over_quota', '')
    enter_order(chosen[place])
    enqueue(chosen[place], true)
  end
  return redis.call('EXISTS', over_key_of(queue, 'cpu', owner), over_key_of(queue, 'gpu', owner)) > 0
end

-- Offers one job more of an owner than its quota has room for, since one that is offered has found no worker that can run
-- it; a claim still respects the quota.
local function offer_one_more(queue, owner)
  local usage = usage_of(owner)
  if not quota_of(owner) or usage.running >= limit_of(owner, 'running') then return end
  local id = take_held_back(queue, owner, usage.gpus < limit_of(owner, 'gpus'))
  if id and get(id, 'state') == 'queued' and get(id, 'queue') == queue then
    set(id, 'over_quota', '')
    enter_order(id)
    enqueue(id)
  end
end

local function offer_held_back(owner)
  usage_read[owner] = nil
  if redis.call('SISMEMBER', PREFIX .. 'over_quota', owner) == 0 then return end
  local is_left = false
  for _, queue in ipairs(QUEUES) do is_left = offer_in(queue, owner) or is_left end
  if not is_left then redis.call('SREM', PREFIX .. 'over_quota', owner) end
end

-- Jobs that have not started, by owner.
local function unstarted_key(owner) return PREFIX .. 'unstarted:' .. owner end

-- How many there are; those that an older mistudio has started or ended are counted out.
local function count_unstarted(owner)
  for _, id in ipairs(redis.call('ZRANGE', unstarted_key(owner), 0, -1)) do
    local state = get(id, 'state')
    if state ~= 'queued' and state ~= 'waiting' then redis.call('ZREM', unstarted_key(owner), id) end
  end
  return redis.call('ZCARD', unstarted_key(owner))
end

-- The refusal of new jobs that an owner's `queued` has no room for, or nil.
local function refuse_unstarted(records)
  local new = {}
  for _, record in ipairs(records) do
    if record.owner then new[record.owner] = (new[record.owner] or 0) + 1 end
  end
  for owner, count in pairs(new) do
    local most = limit_of(owner, 'queued')
    if redis.call('ZCARD', unstarted_key(owner)) + count > most and count_unstarted(owner) + count > most then
      return string.format('quota %.0f %.0f %.0f %s', most, redis.call('ZCARD', unstarted_key(owner)), count, owner)
    end
  end
end
