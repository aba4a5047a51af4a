-- Requests with random keys from the whole key space. Arguments: kind, path, number of keys, keys a request, seed,
-- bearer token and what stands behind the key in a path (both may be empty).
-- A request is made once with a placeholder in place of the keys and then only concatenated; all keys have eight
-- digits, so its length stays the same. Requests of many keys are made before the load starts.
local HOLE = "@@@@@@@@"
local READY_REQUESTS = 3000

local function body_of(kind, keys)
    local list = '"' .. table.concat(keys, '","') .. '"'
    if kind == "feast" then
        return '{"features":["churn:churn_probability","churn:expected_spend","churn:expected_orders",' ..
            '"churn:risk_segment"],"entities":{"customer_id":[' .. list .. ']}}'
    end
    return '{"keys":[' .. list .. ']}'
end

local function with_type()
    local headers = {["Content-Type"] = "application/json"}
    for name, value in pairs(wrk.headers) do headers[name] = value end
    return headers
end

local function request_of(kind, path, keys)
    if kind == "get" then return wrk.format("GET", path .. keys[1] .. suffix) end
    return wrk.format("POST", path, with_type(), body_of(kind, keys))
end

function setup(thread)
    threads = (threads or 0) + 1
    thread:set("thread_number", threads)
end

function init(args)
    local kind, path, num_keys, batch, seed = args[1], args[2], tonumber(args[3]), tonumber(args[4]), tonumber(args[5])
    if args[6] and args[6] ~= "" then wrk.headers["Authorization"] = "Bearer " .. args[6] end
    suffix = args[7] or ""
    math.randomseed(seed * 1000 + thread_number)
    local random, format = math.random, string.format
    if batch == 1 then
        local made = request_of(kind, path, {HOLE})
        local first, last = made:find(HOLE, 1, true)
        local before, after = made:sub(1, first - 1), made:sub(last + 1)
        request = function() return before .. format("%08d", random(0, num_keys - 1)) .. after end
        return
    end
    local ready = {}
    for i = 1, READY_REQUESTS do
        local keys = {}
        for j = 1, batch do keys[j] = format("%08d", random(0, num_keys - 1)) end
        ready[i] = request_of(kind, path, keys)
    end
    request = function() return ready[random(1, READY_REQUESTS)] end
end

function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        '\nRESULT {"requests":%d,"duration_us":%d,"bytes":%d,"p50_us":%d,"p90_us":%d,"p99_us":%d,"p999_us":%d,' ..
        '"max_us":%d,"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}\n',
        summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(90),
        latency:percentile(99), latency:percentile(99.9), latency.max,
        errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
