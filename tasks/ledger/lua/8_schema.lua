-- The schema version of the records, and the dispatch of operations.

-- Migrates records of an older schema, some at a time: 'more' until all are migrated.
-- 1 -> 2: the indexes by name and by id, the order of the queued jobs, the end of the others.
-- 2 -> 3: the indexes by parent and by the job that is tried again.
function operations.migrate(cursor, most)
  demand_rights()
  local ids = redis.call('ZRANGE', PREFIX .. 'by:all', tonumber(cursor), tonumber(cursor) + tonumber(most) - 1)
  for _, id in ipairs(ids) do
    local state = get(id, 'state')
    index(id)
    if state == 'queued' and get(id, 'turn') == '' then give_turn(id); enter_order(id); enqueue(id) end
    if ENDED[state] then redis.call('ZADD', PREFIX .. 'ended', get(id, 'finished_at'), id) end
  end
  if #ids == tonumber(most) then return 'more' end
  redis.call('SET', PREFIX .. 'schema', SCHEMA)
  return 'ok'
end

local function schema()
  local version = tonumber(redis.call('GET', PREFIX .. 'schema') or nil)
  if version then return version end
  if redis.call('EXISTS', PREFIX .. 'by:all') == 1 then return 1 end
  redis.call('INCRBY', PREFIX .. 'schema', SCHEMA)  -- and not SET, which could write a quota: no submitter may
  return SCHEMA
end

if ARGV[1] ~= 'migrate' and schema() ~= SCHEMA then return 'schema ' .. schema() end
return operations[ARGV[1]](unpack(ARGV, 2))
