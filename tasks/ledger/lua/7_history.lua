-- What queues and GPUs were like: rows each FINE_S seconds for an hour, and each minute for a day.
--
-- A row is JSON: [its time, {name: [value, ...]}]; null is a value that is unknown. A queue's values are pending, running
-- and paused (0 or 1), a GPU's are utilization in percent, used memory in MiB, power in watts, temperature in degrees.
-- Python prepends FINE_S, COARSE_S, FINE_ROWS, COARSE_ROWS, MOST_DEVICES and DEVICE_FRESH_S (tasks/ledger/history.py).

do
  local LISTS = {
    fine = {suffix = ':5s', step = FINE_S, rows = FINE_ROWS},
    coarse = {suffix = ':1m', step = COARSE_S, rows = COARSE_ROWS},
  }
  local NAMES = PREFIX .. 'history:devices'

  local function start_of(time, step) return time - time % step end
  local function is_number(value) return type(value) == 'number' and math.abs(value) < 1e15 end
  local function key_of(part, list) return PREFIX .. 'history:' .. part .. list.suffix end

  local function decoded(text)
    local is_read, found = pcall(cjson.decode, text)
    return is_read and type(found) == 'table' and found or nil
  end

  local function cell(name, values, count)
    local texts = {}
    for place = 1, count do
      texts[place] = is_number(values[place]) and string.format('%.14g', values[place]) or 'null'
    end
    return '"' .. name .. '":[' .. table.concat(texts, ',') .. ']'
  end

  -- The key expires when nobody has written for its whole span.
  local function append(part, list, at, cells)
    local key = key_of(part, list)
    redis.call('RPUSH', key, string.format('[%d,{%s}]', at, table.concat(cells, ',')))
    redis.call('LTRIM', key, -list.rows, -1)
    redis.call('EXPIRE', key, list.rows * list.step)
  end

  -- The time of the newest row, or nil. Rows of a time to come are dropped: the clock was set back.
  local function newest(part, list)
    local key = key_of(part, list)
    local row = redis.call('LINDEX', key, -1)
    while row do
      local at = tonumber(row:match('^%[(%d+),'))
      if at and at <= now then return at end
      redis.call('RPOP', key)
      row = redis.call('LINDEX', key, -1)
    end
  end

  -- Whole numbers: what is read is a line on a screen, and a fraction would double its size.
  local function mean(values)
    local sum = 0
    for _, value in ipairs(values) do sum = sum + value end
    return math.floor(sum / #values + 0.5)
  end

  local function largest(values) return math.max(unpack(values)) end

  -- The values of each name, in the order of a row, as lists of those that are known in these rows.
  local function columns_of(rows)
    local columns = {}
    for _, row in ipairs(rows) do
      for name, values in pairs(row[2]) do
        columns[name] = columns[name] or {}
        for place, value in ipairs(values) do
          columns[name][place] = columns[name][place] or {}
          if is_number(value) then table.insert(columns[name][place], value) end
        end
      end
    end
    return columns
  end

  -- Writes the minute from `at` from its rows: the largest values of a queue, the mean ones of a GPU.
  local function write_minute(part, at, join)
    local rows = {}
    for _, text in ipairs(redis.call('LRANGE', key_of(part, LISTS.fine), -COARSE_S / FINE_S, -1)) do
      local row = decoded(text)
      if row and type(row[2]) == 'table' and is_number(row[1]) and start_of(row[1], COARSE_S) == at then rows[#rows + 1] = row end
    end
    local cells = {}
    for name, columns in pairs(columns_of(rows)) do
      local values = {}
      for place, known in ipairs(columns) do values[place] = #known > 0 and join(known) or false end
      cells[#cells + 1] = cell(name, values, #columns)
    end
    if #cells > 0 then append(part, LISTS.coarse, at, cells) end
  end

  local function queue_cells()
    local cells = {}
    for _, queue in ipairs(QUEUES) do
      local key = PREFIX .. 'queue:' .. queue .. ':'
      local values = {redis.call('ZCARD', key .. 'queued'), redis.call('ZCARD', key .. 'running'), is_paused(queue) and 1 or 0}
      cells[#cells + 1] = cell(queue, values, 3)
    end
    return cells
  end

  -- The GPUs in the newest heartbeats of hosts, by what leases call them: several homes of a host have the same ones.
  local function devices()
    local found, keys = {}, {}
    for _, line in ipairs(redis.call('HVALS', PREFIX .. 'hosts')) do
      local host = decoded(line)
      local is_fresh = host and is_number(host.seen_at) and math.abs(now - host.seen_at) <= DEVICE_FRESH_S
      for _, entry in ipairs(is_fresh and type(host.gpus) == 'table' and host.gpus or {}) do
        local gpu = type(entry) == 'table' and entry or {}
        local key = type(gpu.uuid) == 'string' and gpu.uuid or tostring(host.host) .. ':' .. tostring(gpu.index)
        if not found[key] then keys[#keys + 1] = key end
        if not found[key] or host.seen_at > found[key].seen_at then
          found[key] = {seen_at = host.seen_at, host = host.host, gpu = gpu}
        end
      end
    end
    table.sort(keys)
    return found, keys
  end

  local function name_device(id, device)
    local gpu = device.gpu
    redis.call('HSET', NAMES, id, cjson.encode({
      at = math.floor(now), host = device.host, uuid = gpu.uuid, index = gpu.index, instance = gpu.instance, name = gpu.name,
    }))
  end

  local function forget_old_names()
    local entries = redis.call('HGETALL', NAMES)
    for place = 1, #entries, 2 do
      local device = decoded(entries[place + 1])
      if not device or not is_number(device.at) or math.abs(now - device.at) > COARSE_ROWS * COARSE_S then
        redis.call('HDEL', NAMES, entries[place])
      end
    end
    redis.call('EXPIRE', NAMES, COARSE_ROWS * COARSE_S)
  end

  local function device_cells(is_new_minute)
    local found, keys = devices()
    local cells = {}
    for place = 1, math.min(#keys, MOST_DEVICES) do
      local device, id = found[keys[place]], redis.sha1hex(keys[place]):sub(1, 8)
      local gpu = device.gpu
      local used = is_number(gpu.memory_total) and is_number(gpu.memory_free) and gpu.memory_total - gpu.memory_free
      local values = {gpu.utilisation, used and math.floor(used / 1048576 + 0.5), gpu.power, gpu.temperature}
      if is_number(gpu.power) then values[3] = math.floor(gpu.power + 0.5) end
      cells[#cells + 1] = cell(id, values, 4)
      if is_new_minute or redis.call('HEXISTS', NAMES, id) == 0 then name_device(id, device) end
    end
    if #keys > MOST_DEVICES then cells[#cells + 1] = cell('left_out', {#keys - MOST_DEVICES}, 1) end
    if is_new_minute then forget_old_names() end
    return cells
  end

  -- Writes the present row unless it is there, whoever comes; before it, the minute that is over.
  local function record(part, cells_now, join)
    local at, last, last_minute = start_of(now, FINE_S), newest(part, LISTS.fine), newest(part, LISTS.coarse)
    if last == at then return end
    local minute = last and start_of(last, COARSE_S)
    local is_over = minute and minute < start_of(now, COARSE_S) and (not last_minute or last_minute < minute)
    if is_over then write_minute(part, minute, join) end
    local cells = cells_now(is_over or not last)
    if #cells > 0 then append(part, LISTS.fine, at, cells) end
  end

  -- Whatever prevents it, a full Redis or a damaged key, loses rows of history and nothing else.
  function operations.record_history()
    pcall(record, 'queues', queue_cells, largest)
    pcall(record, 'devices', device_cells, mean)
    return 'ok'
  end
end
