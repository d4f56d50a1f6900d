-- What can be asked of quotas. ARGV[2] is the owner.

-- changes: JSON of the limits to set; the others stay.
function operations.set_quota(owner, changes)
  demand_rights()
  local quota = quota_of(owner) or {}
  for what, limit in pairs(cjson.decode(changes)) do quota[what] = limit end
  quotas_read[owner] = quota
  redis.call('SET', PREFIX .. 'quotas', cjson.encode(quotas_read))
  offer_held_back(owner)
  return 'ok'
end

function operations.unset_quota(owner)
  demand_rights()
  if not quota_of(owner) then return 'unknown' end
  quotas_read[owner] = nil
  if next(quotas_read) then
    redis.call('SET', PREFIX .. 'quotas', cjson.encode(quotas_read))
  else
    redis.call('DEL', PREFIX .. 'quotas')
  end
  offer_held_back(owner)
  return 'ok'
end
