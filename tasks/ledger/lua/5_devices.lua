-- The leases on devices: one atomic step decides which card a job gets.

-- The estimate of a job's memory is a guess: one larger than any card must not make it wait for ever.
local MOST_OF_A_CARD = 0.8

-- What is leased of each card, by its key. A lease is stored as 'bytes the job is expected to hold, or 0; bytes that were
-- in use by others when it came; key'.
local function read_leases()
  local cards, leases = {}, redis.call('HGETALL', PREFIX .. 'devices')
  for at = 1, #leases, 2 do
    local expected, others, key = leases[at + 1]:match('^(%d+) (%d+) (.+)$')
    expected, others, key = expected or 0, others or 0, key or ''  -- one that is damaged leases no card
    local card = cards[key] or {jobs = {}, expected = 0, others = math.huge}
    card.jobs[#card.jobs + 1] = name_of(leases[at])
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
  if best.name == 'cpu' then offer_held_back(get(id, 'owner')) end
  return 'leased ' .. best.key
end

function operations.use_device(id, token, device)
  if not holds(id, token) then return 'lost' end
  set(id, 'device', device); set(id, 'progress', '')
  if device == 'cpu' then offer_held_back(get(id, 'owner')) end
  return 'ok'
end
