-- Requests to rank, one after the other on each connection. Arguments: path, and a file with one body in each line.
function init(args)
    local ready, headers = {}, {["Content-Type"] = "application/json"}
    for line in io.lines(args[2]) do ready[#ready + 1] = wrk.format("POST", args[1], headers, line) end
    local place = 0
    request = function()
        place = place % #ready + 1
        return ready[place]
    end
end

function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format('\nRESULT {"requests":%d,"duration_us":%d,"failed":%d}\n', summary.requests,
        summary.duration, errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
