-- Counters over all jobs that ever were, also of those without a record: ends by outcome, attempts, how long they took.
--
-- Only HSET writes them: whoever submits may cancel, which ends jobs, and has no right to HINCRBY. Python prepends
-- DURATION_BOUNDS and WAIT_BOUNDS.

local function add(name, field, amount)
  local key = PREFIX .. 'metrics:' .. name
  local sum = (tonumber(redis.call('HGET', key, field) or nil) or 0) + amount
  redis.call('HSET', key, field, string.format('%.17g', sum))
end

-- A damaged counter keeps no job from its state.
local function count(name, field, amount) pcall(add, name, field, amount or 1) end

local function observe(name, kind, seconds, bounds)
  local least = '+Inf'
  for _, bound in ipairs(bounds) do
    if seconds <= bound then least = string.format('%.14g', bound); break end
  end
  count(name, kind .. ' ' .. least)
  count(name, kind .. ' sum', math.max(0, seconds))
end

local function count_end(id, state, ran)
  local kind, started_at = fields(id, 'kind', 'started_at')
  count('jobs', kind .. ' ' .. state)
  if ran and tonumber(started_at) then observe('duration', kind, now - tonumber(started_at), DURATION_BOUNDS) end
end

-- At the end of an attempt, since a claim has to be quick; the attempt itself is counted there.
local function count_wait(id)
  local kind, queued_at, started_at = fields(id, 'kind', 'queued_at', 'started_at')
  observe('wait', kind, (tonumber(started_at) or now) - (tonumber(queued_at) or now), WAIT_BOUNDS)
end
