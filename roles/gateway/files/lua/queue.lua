-- The queue of one box: as many requests run as the plan has slots, as many wait, in the order in which they came.
-- Copyright (c) 2026 onprem.llm contributors
-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- SPDX-License-Identifier: GPL-3.0-or-later

local rules, counters = ...

local semaphore = require "ngx.semaphore"

local ngx = ngx
local match, sub = string.match, string.sub
local shared, worker_pid = ngx.shared.onprem_llm_counters, ngx.worker.pid
local count, alive = counters.count, counters.alive

-- Those that wait in this worker, by their identifiers.
local waiters = {}

-- Gives free slots to who waits longest.
local function serve(model)
    local running, queue = model.running, model.line
    while (shared:llen(queue) or 0) > 0 do
        local free = count(running, 1) <= model.slots
        -- Whoever takes the number back last sees what is true: one that ended in between found no slot to give on.
        if not free and count(running, -1) >= model.slots then
            return
        end
        local given = not free
        while not given do
            local entry = shared:lpop(queue)
            if not entry then
                break
            end
            local pid, id = match(entry, "^(%d+) (.*)$")
            -- Who adds this key first decides: the slot is given here, or nobody waits for it there any more.
            if shared:get("waits:" .. id) and alive(tonumber(pid)) and shared:add("turn:" .. id, "given", 900) then
                given = true
                -- The slot goes with its owner.
                shared:incr("of:" .. worker_pid() .. ":" .. running, -1, 0)
                shared:incr("of:" .. pid .. ":" .. running, 1, 0)
                if waiters[id] then
                    waiters[id]:post(1)
                end
            end
        end
        if not given then
            count(running, -1)
            return
        end
    end
end

-- Takes back what workers had that are no more, and gives it to who waits.
local function bury_the_dead()
    if not shared:add("burial", true, 1.5) then
        return
    end
    local found = false
    for _ = 1, shared:llen("workers") or 0 do
        local pid = shared:lpop("workers")
        if not pid then
            return
        end
        if alive(pid) then
            shared:rpush("workers", pid)
        else
            found = true
            local prefix = "of:" .. pid .. ":"
            for _, key in ipairs(shared:get_keys(0)) do
                if sub(key, 1, #prefix) == prefix then
                    local amount = shared:get(key)
                    if amount and amount ~= 0 then
                        shared:incr(sub(key, #prefix + 1), -amount, 0)
                    end
                    shared:delete(key)
                end
            end
        end
    end
    if found then
        for _, model in pairs(rules.models or {}) do
            serve(model)
        end
    end
end

local function leave(request)
    local model = request.model
    local left
    if request.running then
        request.running = nil
        left = count(model.running, -1)
    elseif request.waiting then
        request.waiting = nil
        waiters[request.id] = nil
        shared:delete("waits:" .. request.id)
        count(model.waiting, -1)
        -- It has to outlive another worker's step from "waits:" to "turn:" alone.
        if shared:add("turn:" .. request.id, "left", 5) then
            return
        end
        -- It was this one's turn already.
        left = count(model.running, -1)
    end
    -- Who waits does so for one of these.
    if left and model.slots and left >= model.slots - 1 then
        serve(model)
    end
end

-- Takes those out of a line who wait no more: while no slot gets free, nobody else does.
local function forget_who_left(queue)
    for _ = 1, shared:llen(queue) do
        local entry = shared:lpop(queue)
        if entry and shared:get("waits:" .. match(entry, " (.*)$")) then
            shared:rpush(queue, entry)
        end
    end
end

-- Returns when the request may go on; nothing and the reason otherwise.
local function enter(request)
    local model = request.model
    local queue = model.line
    if count(model.running, 1) <= model.slots then
        request.running = true
        return true
    end
    local free = count(model.running, -1) < model.slots
    local most = rules.queue.waiting_per_slot * model.slots
    if count(model.waiting, 1) > most then
        count(model.waiting, -1)
        if free then
            serve(model)
        end
        return nil, "full"
    end
    local turn = semaphore.new()
    request.waiting = true
    waiters[request.id] = turn
    shared:set("waits:" .. request.id, true, rules.queue.timeout_seconds + 60)
    shared:rpush(queue, worker_pid() .. " " .. request.id)
    if shared:llen(queue) > 2 * most + 100 then
        forget_who_left(queue)
    end
    serve(model)
    local give_up = ngx.now() + rules.queue.timeout_seconds
    while not shared:get("turn:" .. request.id) do
        if ngx.now() > give_up then
            leave(request)
            return nil, "timeout"
        end
        -- Another worker's word is looked for; this worker's own wakes at once.
        turn:wait(0.01)
    end
    request.waiting, request.running = nil, true
    waiters[request.id] = nil
    shared:delete("waits:" .. request.id)
    shared:delete("turn:" .. request.id)
    count(model.waiting, -1)
    return true
end

return {enter = enter, leave = leave, bury_the_dead = bury_the_dead}
