-- What all workers on this Redis must share: the record of the fleet. No job is named: ARGV[2] is '' or a worker's name.

-- 'ok' where that is the record, or there was none; else the record.
function operations.join_fleet(_, record)
  local known = redis.call('GET', PREFIX .. 'fleet')
  if known and known ~= record then return known end
  redis.call('SET', PREFIX .. 'fleet', record)
  return 'ok'
end

-- A worker has ended in good order; with the last of them the record goes, so that the next may bring another store.
function operations.forget_worker(worker)
  redis.call('HDEL', PREFIX .. 'workers', worker)
  if redis.call('EXISTS', PREFIX .. 'workers') == 0 then redis.call('DEL', PREFIX .. 'fleet') end
  return 'ok'
end

-- Forget what the workers shared, unless one of them lives, whose name is the answer then.
function operations.forget_fleet(_, ttl)
  demand_rights()
  local lines = redis.call('HGETALL', PREFIX .. 'workers')
  for place = 1, #lines, 2 do
    local read, beat = pcall(cjson.decode, lines[place + 1])
    local lives = read and type(beat) == 'table' and type(beat.seen_at) == 'number' and now - beat.seen_at <= tonumber(ttl)
    if lives and (beat.refused or '') == '' then return lines[place] end
  end
  redis.call('DEL', PREFIX .. 'fleet')
  return 'ok'
end
