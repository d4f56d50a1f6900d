-- Nonces that workers write into the store, by time: those that somebody began to write, and those that were written.

local BEGUN, WRITTEN, WRITER = PREFIX .. 'nonces:begun', PREFIX .. 'nonces', PREFIX .. 'nonce-writer'

-- How long one worker alone may write, in seconds.
local WRITER_S = 30

local function forget_nonces(older_than)
  for _, key in ipairs({BEGUN, WRITTEN}) do
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now - older_than)
    redis.call('ZREMRANGEBYSCORE', key, '(' .. now_text, '+inf')  -- the clock was set back
  end
end

-- With the record of what all workers share: the next one may be of another store.
local function forget_all_nonces() redis.call('DEL', BEGUN, WRITTEN) end

local function age_at(place)
  local score = redis.call('ZRANGE', WRITTEN, place, place, 'WITHSCORES')[2]
  return score and now - tonumber(score)
end

-- shown: the nonce in a worker's store, or ''; turn_s: '' or how old the newest one is when the next is written.
-- 'ok' when the store shows one that is known, or there is none; 'write' when it is also this worker's turn; else 'wrong'
-- when there is one that it should show, or 'wait'.
function operations.check_nonce(shown, keep_s, shown_after_s, turn_s)
  forget_nonces(tonumber(keep_s))
  local oldest, newest = age_at(0), age_at(-1)
  local is_known = redis.call('ZSCORE', BEGUN, shown) or redis.call('ZSCORE', WRITTEN, shown)
  if oldest and not is_known then return oldest > tonumber(shown_after_s) and 'wrong' or 'wait' end
  if turn_s == '' or (newest and newest < tonumber(turn_s)) then return 'ok' end
  return redis.call('SET', WRITER, now_text, 'NX', 'EX', WRITER_S) and 'write' or 'ok'
end

function operations.begin_nonce(nonce)
  redis.call('ZADD', BEGUN, now_text, nonce)
  return 'ok'
end

function operations.confirm_nonce(nonce)
  redis.call('ZADD', WRITTEN, now_text, nonce)
  return 'ok'
end
