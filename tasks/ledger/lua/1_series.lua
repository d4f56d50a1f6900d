-- A job's metrics: a list of 'at values', bounded however long the job runs.

local SERIES_POINTS, SERIES_KEPT_S = 60, 7 * 86400

local function series_key(id) return PREFIX .. 'series:' .. id end
local function at_of(point) return tonumber(point:match('^%S+')) end

-- Drops the point whose neighbours are nearest to each other, so that those that stay are spaced about evenly.
local function thin(key)
  local points, least, crowded = redis.call('LRANGE', key, 0, -1), math.huge, nil
  for place = 2, #points - 1 do
    local room = at_of(points[place + 1]) - at_of(points[place - 1])
    if room < least then least, crowded = room, points[place] end
  end
  redis.call('LREM', key, 1, crowded)
end

-- An attempt may resume before the last step of the one before it: the later points of that are dropped.
local function add_point(id, at, values)
  local key = series_key(id)
  local last = redis.call('LINDEX', key, -1)
  while last and at_of(last) >= tonumber(at) do
    redis.call('RPOP', key)
    last = redis.call('LINDEX', key, -1)
  end
  redis.call('RPUSH', key, at .. ' ' .. values)
  redis.call('EXPIRE', key, SERIES_KEPT_S)
  if redis.call('LLEN', key) > SERIES_POINTS then thin(key) end
end
