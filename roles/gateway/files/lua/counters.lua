-- Counters that all workers share. What a worker counted is known beside it, so that it can be taken back where that one died.
-- Copyright (c) 2026 onprem.llm contributors
-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- SPDX-License-Identifier: GPL-3.0-or-later

local ffi = require "ffi"

local ngx = ngx
local C = ffi.C
local shared, worker_pid = ngx.shared.onprem_llm_counters, ngx.worker.pid

ffi.cdef "int kill(int pid, int signal);"

-- This worker's share of each counter has a counter, too, by which the share of one that died is taken back.
local share_of = {}

-- Adds to a counter and returns it.
local function count(key, amount)
    local share = share_of[key]
    if not share then
        share = "of:" .. worker_pid() .. ":" .. key
        share_of[key] = share
    end
    shared:incr(share, amount, 0)
    return shared:incr(key, amount, 0)
end

local function alive(pid)
    return C.kill(pid, 0) == 0
end

-- Whether one more is within a rate and its burst; if not, the seconds to wait. The bucket is the time at which it would be empty, in
-- milliseconds; adding to it is atomic among the workers.
local function take(store, key, rate, burst)
    if rate <= 0 then
        return true
    end
    local now, interval = ngx.now() * 1000, 1000 / rate
    -- From the last that it let in, it is empty before its life ends, so that to forget it gives nobody anything.
    local life = (burst + 1) / rate + 60
    local empty = store:incr(key, interval, now, life)
    if not empty then
        return true
    end
    if empty < now then
        store:set(key, now + interval, life)
    elseif empty - now > burst * interval + interval then
        store:incr(key, -interval)
        return false, math.ceil((empty - now) / 1000 - burst / rate)
    else
        store:expire(key, life)
    end
    return true
end

return {count = count, alive = alive, take = take}
