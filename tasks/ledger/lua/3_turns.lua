-- Whose job of a queue starts next, where several owners have some: within a priority step the owner with the fewest
-- running jobs in the queue goes first, among equals the one whose last start is the longest ago. Within one owner the
-- order stays as it is.
--
-- A message asks for the job that it names; the chosen job starts instead, and the other's message is put
-- back before all others of its step. The message of the chosen one is stale then: it finds nothing to claim.

local MOST_LOOKED_AT = 50

-- The first of an owner's jobs at a step of a queue that may start by that function and by the quota, and its score.
local function first_of(queue, owner, step, may_start)
  local usage, first, least = usage_of(owner), nil, math.huge
  if usage.running >= limit_of(owner, 'running') then return nil end
  for _, need in ipairs(usage.gpus >= limit_of(owner, 'gpus') and {'cpu'} or {'cpu', 'gpu'}) do
    local key = ready_key(queue, need, owner)
    -- A job that was put before all others and then got a priority has a number below 0: hence the halves.
    local found = redis.call('ZRANGEBYSCORE', key, (step - 0.5) * 1e13, (step + 0.5) * 1e13, 'LIMIT', 0, MOST_LOOKED_AT)
    for _, id in ipairs(found) do
      if get(id, 'state') ~= 'queued' or get(id, 'queue') ~= queue then
        redis.call('ZREM', key, id)  -- an older mistudio has started or moved it
      elseif may_start(id) then
        local score = score_of(id)
        if score < least then first, least = id, score end
        break
      end
    end
  end
  return first, least
end

-- How many jobs of a queue run, by owner.
local function running_in(queue)
  local counts = {}
  for _, id in ipairs(redis.call('ZRANGE', PREFIX .. 'queue:' .. queue .. ':running', 0, -1)) do
    local owner = get(id, 'owner')
    counts[owner] = (counts[owner] or 0) + 1
  end
  return counts
end

-- A job put before all others, by a person or because its queue starved, waits for no turn.
local function raised_of(queue, may_start)
  local id = redis.call('ZRANGE', order_key(queue), 0, 0)[1]
  local is_raised = id and get(id, 'state') == 'queued' and get(id, 'raised') == '1'
  return is_raised and may_start(id) and not reached_by(id) and id or nil
end

-- The job to start when a message names `id`, which is queued: that one, another that may by that function, or nil.
local function choose(id, may_start)
  local queue, step = get(id, 'queue'), step_of(id)
  local raised = step == 0 and raised_of(queue, may_start)
  if raised then return raised end
  local counts, best, fewest, longest, oldest = running_in(queue), nil, math.huge, nil, nil
  local owners = redis.call('ZRANGE', owners_key(queue), 0, -1, 'WITHSCORES')  -- the longest without a start first
  for place = 1, #owners, 2 do
    local owner, started_at = owners[place], owners[place + 1]
    local first, score = first_of(queue, owner, step, may_start)
    local count = counts[owner] or 0
    if first and (count < fewest or (count == fewest and started_at == longest and score < oldest)) then
      best, fewest, longest, oldest = first, count, started_at, score
    end
  end
  if not best and not reached_by(id) then return id end  -- one that an older mistudio has queued
  return best
end

-- Whether more than one owner has had jobs in the order of a queue since that was last empty.
local function has_turns(queue) return redis.call('ZCARD', owners_key(queue)) > 1 end
