-- What the gateway decides about a request: who sends it, whether it may pass, and when. The site's phases call the functions at the end.
-- Copyright (c) 2026 onprem.llm contributors
-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- SPDX-License-Identifier: GPL-3.0-or-later

-- Requests leave little behind; without this the collector would walk through what stays all the time.
collectgarbage("setpause", 400)

local bit = require "bit"
local cjson = require "cjson.safe"
local ffi = require "ffi"
local semaphore = require "ngx.semaphore"

local ngx = ngx
local C = ffi.C
local byte, find, format, lower, match, sub = string.byte, string.find, string.format, string.lower, string.match, string.sub
local shared, strangers = ngx.shared.onprem_llm_counters, ngx.shared.onprem_llm_strangers
local get_headers, worker_pid = ngx.req.get_headers, ngx.worker.pid

ffi.cdef [[
int SHA256_Init(void *context);
int SHA256_Update(void *context, const char *data, size_t size);
int SHA256_Final(unsigned char *digest, void *context);
char *crypt_r(const char *phrase, const char *setting, void *data);
int kill(int pid, int signal);
]]

-- The rules that the role wrote, read once by each worker.
local function load_rules(path)
    local file = assert(io.open(path, "rb"))
    local rules = assert(cjson.decode(file:read("*a")))
    file:close()
    return rules
end

-- Larger than SHA256_CTX (112 bytes). OpenSSL 3's own one call for it all looks its algorithm up each time, which takes longer than the digest.
local CONTEXT = ffi.new("uint64_t[32]")
local DIGEST = ffi.new("unsigned char[32]")

local function sha256(text)
    C.SHA256_Init(CONTEXT)
    C.SHA256_Update(CONTEXT, text, #text)
    C.SHA256_Final(DIGEST, CONTEXT)
    return ffi.string(DIGEST, 32)
end

local function unhex(text)
    return (text:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

-- Seconds since 1970 of `2026-12-31` (its end) or `2026-12-31T18:00:00Z`. Days are counted in eras of 400 years from 1 March of year 0.
local function epoch(text)
    local year, month, day, rest = match(text, "^(%d%d%d%d)-(%d%d)-(%d%d)(.*)$")
    year, month, day = tonumber(year), tonumber(month), tonumber(day)
    if month <= 2 then
        year = year - 1
    end
    local shifted = (month + 9) % 12
    local days = 365 * year + math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
        + math.floor((153 * shifted + 2) / 5) + day - 1 - 719468
    local hour, minute, second = match(rest, "^T(%d%d):(%d%d):(%d%d)Z$")
    if hour then
        return days * 86400 + hour * 3600 + minute * 60 + second
    end
    return (days + 1) * 86400
end

local rules
local users, keys, certificates_by_digest, certificates_by_subject = {}, {}, {}, {}
local exact_routes, below_routes = {}, {}
local origins = {}

-- ------------------------------------------------------------------------------------------------------------------
-- Answers of the gateway's own

local TYPES = {[429] = "rate_limit_error", [500] = "server_error", [503] = "server_error"}

local function refuse(status, code, message, param, retry_after)
    ngx.status = status
    ngx.header["Content-Type"] = "application/json"
    if retry_after then
        ngx.header["Retry-After"] = retry_after
    end
    if status == 401 then
        ngx.header["WWW-Authenticate"] = 'Bearer realm="onprem-llm"'
    end
    ngx.print(cjson.encode({error = {
        message = message, type = TYPES[status] or "invalid_request_error", param = param or cjson.null, code = code}}), "\n")
    return ngx.exit(status)
end

-- ------------------------------------------------------------------------------------------------------------------
-- JSON: where its parts are, without building it. Where a string ends and what is nested in what is read as Go's decoder reads it; what that
-- decoder refuses by itself (a broken escape, a control character) is left to it.

local MAX_DEPTH = 64
-- Bytes after which others have their turn.
local BREATH = 1048576
local WORD = ffi.typeof("const uint64_t *")
local BYTES = ffi.typeof("const uint8_t *")
local HIGHEST = 0x8080808080808080ULL

local function continues(c)
    return c >= 128 and c <= 191
end

-- Bytes of the UTF-8 sequence at i, by table 3-7 of the Unicode standard; nothing if it is none.
local function utf8_length(p, i, n)
    local c, left = p[i], n - i
    if c >= 0xC2 and c <= 0xDF then
        return left >= 2 and continues(p[i + 1]) and 2 or nil
    end
    if c >= 0xE0 and c <= 0xEF then
        if left < 3 or not continues(p[i + 1]) or not continues(p[i + 2]) or c == 0xE0 and p[i + 1] < 0xA0 or c == 0xED and p[i + 1] > 0x9F then
            return nil
        end
        return 3
    end
    if c >= 0xF0 and c <= 0xF4 then
        if left < 4 or not continues(p[i + 1]) or not continues(p[i + 2]) or not continues(p[i + 3])
            or c == 0xF0 and p[i + 1] < 0x90 or c == 0xF4 and p[i + 1] > 0x8F then
            return nil
        end
        return 4
    end
    return nil
end

-- How many bytes from i on are ASCII, eight at a time.
local function ascii_words(p, i, stop)
    while i + 8 <= stop and bit.band(ffi.cast(WORD, p + i)[0], HIGHEST) == 0 do
        i = i + 8
    end
    return i
end

local function is_utf8(text)
    local p, n, i = ffi.cast(BYTES, text), #text, 0
    local pause_at = BREATH
    while i < n do
        i = ascii_words(p, i, math.min(n, pause_at))
        if i < n then
            local length = p[i] < 128 and 1 or utf8_length(p, i, n)
            if not length then
                return false
            end
            i = i + length
        end
        if i + 8 >= pause_at then
            ngx.sleep(0)
            pause_at = i + BREATH
        end
    end
    return true
end

-- Position of the quote that ends the string whose first quote is at i.
local function string_end(text, i)
    local from = i + 1
    while true do
        local quote = find(text, '"', from, true)
        if not quote or byte(text, quote - 1) ~= 92 then
            return quote
        end
        local back = quote - 2
        while byte(text, back) == 92 do
            back = back - 1
        end
        if (quote - back) % 2 == 1 then
            return quote
        end
        from = quote + 1
    end
end

local WORDS = {[116] = {"true", true}, [102] = {"false", false}, [110] = {"null", cjson.null}}
local OBJECT, ARRAY = 1, 2
-- What comes next.
local VALUE, VALUE_OR_END, KEY, KEY_OR_END, COMMA_OR_END = 1, 2, 3, 4, 5
-- Members whose elements' own `role` or `type` counts.
local ROLES, TYPES_OF_TOOLS = 1, 2
local ROLES_OR_TYPES = {role = ROLES, type = TYPES_OF_TOOLS}
local LISTS = {messages = "role", input = "role", tools = "type"}
-- Names that most requests have, so that these need not be looked at letter by letter.
local PLAIN_NAMES = {}
for name in ([[model messages prompt input stream stream_options options format tools tool_choice think role content type text images max_tokens
    max_completion_tokens temperature top_p top_k min_p seed stop num_predict num_ctx repeat_penalty presence_penalty frequency_penalty
    response_format keep_alive system name function n user encoding_format truncate dimensions tool_calls tool_call_id]]):gmatch("%S+") do
    PLAIN_NAMES[name] = true
end
-- Bytes that numbers have.
local NUMERIC = {}
for c in ("0123456789+-.eE"):gmatch(".") do
    NUMERIC[byte(c)] = true
end
-- A longer value of a member counts as one that is there.
local LONGEST = 1024
-- Names that an object may have where they are kept: no engine knows a tenth of these, and each takes more memory than it takes bytes.
local MOST_NAMES = 500

-- The value of the scalar from its first to its last byte.
local function scalar(text, c, from, to)
    if to - from > LONGEST then
        return true
    end
    if c ~= 34 then
        return tonumber(sub(text, from, to)) or true
    end
    local value = sub(text, from + 1, to - 1)
    if find(value, "\\", 1, true) then
        local decoded = cjson.decode("[" .. sub(text, from, to) .. "]")
        return decoded and decoded[1] or true
    end
    return value
end

-- Reads an object. Its members come by name, as strings, numbers, booleans, null or (what is nested or long) true; `options` comes as a table of
-- its own; the words that LISTS' elements have come under ROLES and TYPES_OF_TOOLS. Nothing and the fault, if there is one.
-- A name must be in ASCII, without escapes, and there once: Go's decoder takes `Model`, `\u006dodel` and, with the Kelvin sign for k, others
-- for a field's name, and the last of two. Names in other than lower case come in a list of their own.
-- With `wanted`, the name of a list: first and last byte of each of its objects, and their `name` or `id`.
local function read_json(text, wanted)
    local members, spelling, kinds = {}, nil, {}
    local elements = wanted and {} or nil
    local n, depth, i, expect = #text, 0, 1, VALUE
    local member, inner, options, element_from, element_name
    local names = 0
    while true do
        local c = byte(text, i)
        while c == 32 or c == 10 or c == 13 or c == 9 do
            i = i + 1
            c = byte(text, i)
        end
        if not c then
            if depth == 0 and expect == COMMA_OR_END then
                return members, nil, spelling, elements
            end
            return nil, n == 0 and "is empty" or "ends too early"
        end
        if expect == COMMA_OR_END then
            if depth == 0 then
                return nil, "goes on behind its end"
            end
            local kind = kinds[depth]
            if c == 44 then
                expect = kind == OBJECT and KEY or VALUE
            elseif c == 125 and kind == OBJECT or c == 93 and kind == ARRAY then
                depth = depth - 1
                if element_from and depth == 2 then
                    elements[#elements + 1] = {element_from, i, element_name}
                    element_from = nil
                end
            else
                return nil, "lacks a comma or a bracket"
            end
            i = i + 1
        elseif expect == KEY or expect == KEY_OR_END then
            if c == 34 then
                local stop = string_end(text, i)
                if not stop then
                    return nil, "ends inside a string"
                end
                if depth <= 3 and (depth == 1 or depth == 2 and member == "options" or depth == 3 and kinds[2] == ARRAY) then
                    if depth < 3 then
                        names = names + 1
                        if names > MOST_NAMES and not wanted then
                            return nil, "has more than " .. MOST_NAMES .. " names"
                        end
                    end
                    local name = sub(text, i + 1, stop - 1)
                    local folded = PLAIN_NAMES[name] and name or lower(name)
                    if not PLAIN_NAMES[name] and find(name, "[%c\\\128-\255]") then
                        if not wanted then
                            return nil, "has a name with an escape or beyond ASCII"
                        end
                    elseif depth == 1 then
                        if members[folded] ~= nil then
                            return nil, "has " .. sub(folded, 1, 40) .. " twice"
                        end
                        -- Until its value is read.
                        members[folded] = true
                        member = folded
                    elseif depth == 2 and options then
                        if options[folded] ~= nil then
                            return nil, "has options." .. sub(folded, 1, 40) .. " twice"
                        end
                        options[folded] = true
                    end
                    inner = folded
                    if name ~= folded and depth < 3 then
                        spelling = spelling or name
                    end
                end
                i = stop + 1
                c = byte(text, i)
                while c == 32 or c == 10 or c == 13 or c == 9 do
                    i = i + 1
                    c = byte(text, i)
                end
                if c ~= 58 then
                    return nil, "lacks a colon"
                end
                i = i + 1
                expect = VALUE
            elseif c == 125 and expect == KEY_OR_END then
                depth = depth - 1
                if element_from and depth == 2 then
                    elements[#elements + 1] = {element_from, i, element_name}
                    element_from = nil
                end
                i = i + 1
                expect = COMMA_OR_END
            else
                return nil, "lacks a name in an object"
            end
        elseif c == 123 or c == 91 then
            depth = depth + 1
            if depth == 1 and c == 91 then
                return nil, "is an array; an object is needed"
            elseif depth == 2 and member == "options" then
                options = c == 123 and {} or nil
                members.options = options or true
            elseif depth == 3 then
                inner = nil
                if c == 123 and wanted == member and kinds[2] == ARRAY then
                    element_from, element_name = i, nil
                end
            elseif depth > MAX_DEPTH then
                return nil, "is nested deeper than " .. MAX_DEPTH .. " levels"
            end
            kinds[depth] = c == 123 and OBJECT or ARRAY
            expect = c == 123 and KEY_OR_END or VALUE_OR_END
            i = i + 1
        elseif c == 93 and expect == VALUE_OR_END then
            depth = depth - 1
            i = i + 1
            expect = COMMA_OR_END
        elseif depth == 0 then
            return nil, "is no object"
        else
            local stop, value
            if c == 34 then
                stop = string_end(text, i)
                if not stop then
                    return nil, "ends inside a string"
                end
            elseif c == 45 or c >= 48 and c <= 57 then
                stop = i
                while NUMERIC[byte(text, stop + 1)] do
                    stop = stop + 1
                end
            else
                local word = WORDS[c]
                stop = word and i + #word[1] - 1
                if not word or sub(text, i, stop) ~= word[1] then
                    return nil, "has a word that JSON does not know"
                end
                value = word[2]
            end
            if depth == 1 then
                if value == nil then
                    value = scalar(text, c, i, stop)
                end
                members[member] = value
            elseif depth == 2 and member == "options" and options then
                if value == nil then
                    value = scalar(text, c, i, stop)
                end
                options[inner] = value
            elseif depth == 3 and c == 34 and inner and kinds[3] == OBJECT and kinds[2] == ARRAY then
                if element_from then
                    if inner == "name" or inner == "id" then
                        element_name = element_name or scalar(text, c, i, stop)
                    end
                elseif LISTS[member] == inner then
                    -- Under a number, which no member's name is.
                    local list = members[ROLES_OR_TYPES[inner]] or {}
                    members[ROLES_OR_TYPES[inner]] = list
                    list[#list + 1] = scalar(text, c, i, stop)
                end
            end
            i = stop + 1
            expect = COMMA_OR_END
        end
    end
end

-- ------------------------------------------------------------------------------------------------------------------
-- Names of models

-- The parts of a name, as the engine's parser allows them (types/model/name.go of 0.32.15): pattern and greatest length.
local HOST, NAMESPACE, MODEL, TAG = {"^[%w_][%w_.:-]*$", 350}, {"^[%w_][%w_-]*$", 80}, {"^[%w_][%w_.-]*$", 80}, {"^[%w_][%w_.-]*$", 80}

local function is(part, kind)
    return #part <= kind[2] and find(part, kind[1]) ~= nil
end

-- The name as that parser completes it, in lower case, without the default host, and then without the default namespace: `gemma3:latest`,
-- `acme/thing:q4`, `hf.co/acme/thing:q4`. Nothing for what is no name there. With two parts the first is a namespace, whatever it says.
local function canonical(name)
    local path, tag = match(lower(name), "^(.*):([^:/]*)$")
    if not path then
        path, tag = lower(name), "latest"
    end
    local before, model = match(path, "^(.*)/([^/]*)$")
    if not is(model or path, MODEL) or not is(tag, TAG) then
        return nil
    end
    if not before then
        return path .. ":" .. tag
    end
    local host, namespace = match(before, "^(.*)/([^/]*)$")
    if not is(namespace or before, NAMESPACE) or host and not is(host, HOST) then
        return nil
    end
    host, namespace = host or "registry.ollama.ai", namespace or before
    local whole = model .. ":" .. tag
    if host ~= "registry.ollama.ai" then
        return host .. "/" .. namespace .. "/" .. whole
    end
    return namespace == "library" and whole or namespace .. "/" .. whole
end

-- The model that a request names, as the plan writes it, if the user may use it. Without a plan each name is as good.
local function allowed_model(user, name)
    if type(name) ~= "string" or #name > 600 then
        return nil
    end
    local models = rules.models
    if not models then
        local key = canonical(name)
        if not key or find(key, "-cloud$") or find(key, ":cloud$") or find(key, ":local$") or user.models and not user.models[key] then
            return nil
        end
        return {name = key, queue = key}
    end
    local model = models[name]
    if not model then
        local key = canonical(name)
        model = key and models[key]
    end
    if not model or user.models and not user.models[model.key] then
        return nil
    end
    return model
end

-- ------------------------------------------------------------------------------------------------------------------
-- Counters that all workers share, and what to do about those of a worker that died

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

-- ------------------------------------------------------------------------------------------------------------------
-- Who asks

-- Passwords that were right, by a digest that only this worker's memory has: a check takes milliseconds of everybody's time.
local known_passwords = {}
-- Stands for who has no password, so that the time of an answer does not tell names.
local nobody

local function password_right(user, given)
    local known = sha256(user.name .. "\0" .. user.password_hash .. "\0" .. given)
    if known_passwords[known] then
        return true
    end
    local address = "failed:" .. ngx.var.onprem_llm_address
    local empty = strangers:get(address)
    if empty and empty - ngx.now() * 1000 > rules.address.failures_burst * 1000 / rules.address.failures_per_second then
        return false
    end
    local made = C.crypt_r(given, user.password_hash, ffi.new("char[32768]"))
    if made == nil or ffi.string(made) ~= user.password_hash then
        return false
    end
    known_passwords[known] = true
    return true
end

local function by_key(key)
    local found = keys[sha256(key)]
    if found and (not found.ends or ngx.time() < found.ends) then
        return found.user
    end
    return nil
end

local function by_password(encoded)
    local pair = ngx.decode_base64(encoded)
    local name, given = match(pair or "", "^([^:]+):(.*)$")
    if not name or not nobody or #given > 512 or find(given, "%z") then
        return nil
    end
    local user = users[name]
    local right = password_right(user and user.password_hash and user or nobody, given)
    return right and user and user.password_hash and user or nil
end

local function by_certificate()
    if ngx.var.ssl_client_verify ~= "SUCCESS" then
        return nil
    end
    local pem = ngx.var.ssl_client_raw_cert or ""
    local der = ngx.decode_base64((pem:gsub("%-%-%-%-%-[^\n]*", ""):gsub("%s", "")))
    return der and certificates_by_digest[sha256(der)] or certificates_by_subject[ngx.var.ssl_client_s_dn or ""]
end

-- The user, and whether the credential is one that a browser adds by itself.
local function authenticate(headers)
    local authorization, key = headers["authorization"], headers["x-api-key"]
    local user, ambient
    if authorization then
        local scheme = lower(sub(authorization, 1, 7))
        if scheme == "bearer " then
            user = by_key(sub(authorization, 8))
        elseif sub(scheme, 1, 6) == "basic " then
            user, ambient = by_password(sub(authorization, 7)), true
        end
        if not user then
            return nil
        end
    end
    if key then
        local same = by_key(key)
        if not same or user and user ~= same then
            return nil
        end
        user = same
    end
    if rules.certificates then
        local same = by_certificate()
        if user and same and user ~= same then
            return nil
        end
        if not user and same then
            user, ambient = same, true
        end
    end
    return user, ambient
end

-- ------------------------------------------------------------------------------------------------------------------
-- The queue of one box: as many requests run as the plan has slots, as many wait, in the order in which they came

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

-- ------------------------------------------------------------------------------------------------------------------
-- What a request may say

-- Bytes from which on a body counts to what all workers hold together. Smaller ones are bounded by the number of connections.
local SMALL_BODY = 65536

-- Whether there is room for a body of so many bytes; it is kept until the request ends.
local function hold(request, size)
    local more = (size > SMALL_BODY and size or 0) - (request.held or 0)
    if more == 0 then
        return true
    end
    if count("bodies", more) > rules.bodies_bytes and more > 0 then
        count("bodies", -more)
        return false
    end
    request.held = (request.held or 0) + more
    return true
end

local function given(value)
    return value ~= nil and value ~= cjson.null and value ~= false and value ~= ""
end

-- Members that need a right, in the order in which a fault is told. A context is tokens, which pass every template.
local RIGHT_OF = {{"raw", "raw"}, {"context", "raw"}, {"template", "template"}, {"_debug_render_only", "template"}, {"system", "system"}, {"instructions", "system"}}

local function lacking(member)
    return 403, "right_missing", member .. " needs a right that you do not have.", member
end

-- What is wrong with a request's members for this user: status, code, message and the member at fault.
local function fault(user, members, model)
    local keep_alive = members.keep_alive
    if keep_alive ~= nil and keep_alive ~= cjson.null then
        local wanted = model.keep_alive
        if not wanted or tostring(keep_alive) ~= wanted and tonumber(keep_alive) ~= tonumber(wanted) then
            return 400, "option_not_allowed", "keep_alive is the plan's, not a request's; leave it out.", "keep_alive"
        end
    end
    local options = members.options
    if type(options) == "table" then
        for i = 1, #rules.load_options do
            local name = rules.load_options[i]
            local value = options[name]
            if value ~= nil and value ~= cjson.null then
                local planned = model.options and model.options[name]
                if planned == nil or value ~= planned then
                    return 400, "option_not_allowed", "options." .. name .. " changes how the model is loaded; "
                        .. (planned ~= nil and "it is " .. tostring(planned) .. " here, so leave it out." or "leave it out."), "options." .. name
                end
            end
        end
    elseif options ~= nil and options ~= cjson.null then
        return 400, "invalid_json", "options must be an object.", "options"
    end
    local rights = user.rights
    for i = 1, #RIGHT_OF do
        local member = RIGHT_OF[i][1]
        if given(members[member]) and not rights[RIGHT_OF[i][2]] then
            return lacking(member)
        end
    end
    local roles = not rights.system and members[ROLES]
    for i = 1, roles and #roles or 0 do
        local role = lower(tostring(roles[i]))
        if role == "system" or role == "developer" then
            return lacking("a message of the role " .. role)
        end
    end
    local tools = members[TYPES_OF_TOOLS]
    for i = 1, tools and #tools or 0 do
        if sub(lower(tostring(tools[i])), 1, 4) == "web_" then
            return 400, "tool_not_allowed", "The engine fetches nothing from outside; leave the tool " .. tostring(tools[i]) .. " out.", "tools"
        end
    end
    return nil
end

-- The path, where the client wrote it as it is: nginx's own $uri is decoded, and the engine may not read another one out of it.
local function written_path(method, request, uri)
    local start = method .. " " .. uri
    if sub(request, 1, #start) == start then
        local c = byte(request, #start + 1)
        return (c == 32 or c == 63) and uri
    end
    return nil
end

local function find_route(path)
    for _, below in ipairs(below_routes) do
        if #path > #below.path and sub(path, 1, #below.path) == below.path then
            return below
        end
    end
    return nil
end

-- ------------------------------------------------------------------------------------------------------------------
-- Lists of models

local function listed(user)
    local names = {}
    for key, model in pairs(rules.models) do
        if not user.models or user.models[key] then
            names[#names + 1] = model
        end
    end
    table.sort(names, function(one, other) return one.name < other.name end)
    return names
end

local function say(value)
    ngx.status = 200
    ngx.header["Content-Type"] = "application/json"
    ngx.print(value, "\n")
    return ngx.exit(200)
end

local function openai_model(model)
    return format('{"id":%s,"object":"model","created":0,"owned_by":"library"}', cjson.encode(model.name))
end

local function answer_list(user, path, tail)
    local rows = {}
    if path == "/api/tags" then
        for _, model in ipairs(listed(user)) do
            rows[#rows + 1] = cjson.encode(model.tag)
        end
        return say('{"models":[' .. table.concat(rows, ",") .. "]}")
    end
    if tail then
        local model = allowed_model(user, tail)
        if not model then
            return refuse(404, "model_not_found", "There is no such model, or you may not use it.", "model")
        end
        return say(openai_model(model))
    end
    for _, model in ipairs(listed(user)) do
        rows[#rows + 1] = openai_model(model)
    end
    return say('{"object":"list","data":[' .. table.concat(rows, ",") .. "]}")
end

-- An answer of the engine less the models that the user may not use; what cannot be read is not passed on.
local function filtered(user, text)
    for _, list in ipairs({"models", "data"}) do
        local members, _, _, elements = read_json(text, list)
        if members and members[list] then
            local kept = {}
            for _, element in ipairs(elements) do
                if allowed_model(user, element[3]) then
                    kept[#kept + 1] = sub(text, element[1], element[2])
                end
            end
            return list == "models" and '{"models":[' .. table.concat(kept, ",") .. "]}"
                or '{"object":"list","data":[' .. table.concat(kept, ",") .. "]}"
        end
    end
    return '{"models":[]}'
end

-- ------------------------------------------------------------------------------------------------------------------
-- The phases

-- Requests that this worker has admitted, by their identifiers: ngx.ctx does not outlive an error page.
local admitted = {}
local started = false

local function day()
    return math.floor(ngx.time() / 86400)
end

local function access()
    if not started then
        started = true
        shared:rpush("workers", worker_pid())
        ngx.timer.every(2, bury_the_dead)
    end
    local var = ngx.var
    local headers, truncated = get_headers(100)
    local method = ngx.req.get_method()
    if truncated then
        return refuse(431, "header_too_large", "The request has more than 100 headers.")
    end
    if type(headers["authorization"]) == "table" or type(headers["x-api-key"]) == "table" or type(headers["content-encoding"]) == "table"
        or type(headers["content-type"]) == "table" or type(headers["origin"]) == "table" then
        return refuse(400, "bad_request", "A header that may be there once is there twice.")
    end
    local origin = headers["origin"]
    if origin and origins[origin] then
        var.gateway_origin = origin
        if method == "OPTIONS" and headers["access-control-request-method"] then
            ngx.header["Access-Control-Allow-Methods"] = "GET, POST, DELETE"
            ngx.header["Access-Control-Allow-Headers"] = rules.cors.headers
            ngx.header["Access-Control-Max-Age"] = 600
            return ngx.exit(204)
        end
    end

    local user, ambient = authenticate(headers)
    if not user then
        local within, wait = take(strangers, "failed:" .. var.onprem_llm_address, rules.address.failures_per_second, rules.address.failures_burst)
        var.gateway_wait = within and "" or wait
        return ngx.exec("/_stranger")
    end
    var.gateway_user = user.name
    if ambient and origin and not origins[origin] then
        return refuse(403, "origin_not_allowed", "Pages of this origin may not ask.")
    end
    local limits = user.limits
    local within, wait = take(shared, user.rate, limits.requests_per_second, limits.burst)
    if not within then
        return refuse(429, "rate_limit_exceeded", "Too many requests. Wait, and try again.", nil, wait)
    end

    local line = var.request
    local path = written_path(method, line, var.uri)
    local route = path and (exact_routes[path] or find_route(path))
    if not route then
        return refuse(404, "not_found", "There is nothing here.")
    end
    var.gateway_route = route.path
    if method ~= route.method and not (method == "HEAD" and route.method == "GET") then
        ngx.header["Allow"] = route.method
        return refuse(405, "method_not_allowed", "This path takes " .. route.method .. ".")
    end
    if route.role == "admin" and user.role ~= "admin" then
        return refuse(403, "insufficient_permissions", "Your role does not allow this.")
    end
    -- No route has a query, which may hold a key; the engine never sees one.
    if byte(line, #method + #path + 2) == 63 then
        ngx.req.set_uri_args("")
    end
    local encoding = headers["content-encoding"]
    if encoding and lower(encoding) ~= "identity" then
        return refuse(415, "unsupported_encoding", "A request body must not be encoded; Content-Encoding is " .. sub(encoding, 1, 20) .. ".")
    end
    local length = tonumber(headers["content-length"])
    if length and length > limits.body_bytes then
        return refuse(413, "request_too_large", format("The request body may have %d bytes.", limits.body_bytes))
    end
    -- Counted before the body is read, so that nobody fills the memory with bodies that he never ends.
    local request
    if route.method == "GET" then
        if length and length > 0 or headers["transfer-encoding"] then
            return refuse(400, "bad_request", "A GET request has no body.")
        end
        -- HTTP/2 needs no length for a body.
        ngx.req.discard_body()
    else
        request = {id = var.request_id, user = user, chunks = 0}
        admitted[request.id] = request
        if route.role ~= "admin" then
            request.counted = true
            if count(user.running, 1) > limits.concurrency then
                return refuse(429, "concurrency_exceeded", format("You may have %d requests at a time.", limits.concurrency), nil, 1)
            end
        end
        if not hold(request, length or limits.body_bytes) then
            return refuse(503, "overloaded", "The gateway has as many large requests as it may. Wait, and try again.", nil, 5)
        end
    end
    if route.method == "GET" then
        if rules.models and user.role ~= "admin" and (route.path == "/api/tags" or route.path == "/v1/models" or route.path == "/v1/models/") then
            return answer_list(user, route.path, route.path == "/v1/models/" and sub(path, #route.path + 1) or nil)
        end
        if user.role ~= "admin" and route.path == "/v1/models/" and not allowed_model(user, sub(path, #route.path + 1)) then
            return refuse(404, "model_not_found", "There is no such model, or you may not use it.", "model")
        end
        if user.role ~= "admin" and (rules.models or user.models) and (route.path == "/api/ps" or route.path == "/api/tags" or route.path == "/v1/models") then
            ngx.ctx.lists_for = user
        end
        return
    end

    ngx.req.read_body()
    -- nginx's buffer takes a body of the greatest size, so that none goes into a file.
    local text = ngx.req.get_body_data() or ""
    local size = #text
    if size > limits.body_bytes then
        return refuse(413, "request_too_large", format("The request body may have %d bytes.", limits.body_bytes))
    end
    -- One that came without a length was thought to be as large as it may.
    hold(request, size)
    if route.role == "admin" then
        return
    end
    if not is_utf8(text) then
        return refuse(400, "invalid_json", "The request body is not UTF-8.")
    end
    local members, wrong, spelling = read_json(text)
    if not members then
        return refuse(400, "invalid_json", "The request body " .. wrong .. ".")
    end
    if spelling then
        return refuse(400, "invalid_json", "The request body has " .. sub(spelling, 1, 40) .. "; names are written in lower case.", sub(spelling, 1, 40))
    end
    if type(members.model) ~= "string" then
        return refuse(400, "model_missing", "The request names no model.", "model")
    end
    local model = allowed_model(user, members.model)
    if not model then
        return refuse(404, "model_not_found", "There is no such model, or you may not use it.", "model")
    end
    var.gateway_model = model.name
    local status, code, message, param = fault(user, members, model)
    if status then
        return refuse(status, code, message, param)
    end
    if limits.daily_tokens and (shared:get("tokens:" .. day() .. ":" .. user.name) or 0) >= limits.daily_tokens then
        return refuse(429, "daily_tokens_exceeded", format("The day's %d tokens are used up; the next day begins at 00:00 UTC.", limits.daily_tokens),
            nil, 86400 - ngx.time() % 86400)
    end

    request.model, request.size = model, size
    ngx.ctx.request = request
    -- It may wait for minutes now, and nginx has the body.
    text, members = nil, nil
    if rules.queue and model.slots then
        local may, reason = enter(request)
        if not may then
            return refuse(429, "queue_full", reason == "full" and "All slots of the model are taken, and as many requests wait."
                or "The request has waited too long for a slot.", nil, 2)
        end
    elseif model.running then
        -- For the status alone.
        request.running = true
        count(model.running, 1)
    end
end

-- Answers who has no credential, in a location that does not keep the connection.
local function stranger()
    local wait = ngx.var.gateway_wait
    if wait ~= "" then
        return refuse(429, "rate_limit_exceeded", "Too many failed attempts. Wait, and try again.", nil, wait)
    end
    return refuse(401, "invalid_api_key", "Missing or wrong credentials. Send Authorization: Bearer <API key>.")
end

-- What all workers have, as JSON: requests that users have here, whether they run or wait, and of each model that has slots of its own those that
-- run and those that wait. Counters outlive the rules, so that a reload hides nobody.
local function status()
    local requests, models = 0, {}
    for _, model in pairs(rules.models or {}) do
        models[model.queue] = {slots = model.slots, running = 0, waiting = 0}
    end
    for _, key in ipairs(shared:get_keys(0)) do
        local kind, name = match(key, "^(%l+):(.*)$")
        local amount = kind and (kind == "user" or kind == "running" or kind == "waiting") and shared:get(key) or 0
        if amount > 0 and kind == "user" then
            requests = requests + amount
        elseif amount > 0 then
            models[name] = models[name] or {running = 0, waiting = 0}
            models[name][kind] = amount
        end
    end
    return say(cjson.encode({requests = requests, models = models}))
end

-- A list that is filtered gets shorter.
local function header_filter()
    if ngx.ctx.lists_for and ngx.status == 200 then
        ngx.header["Content-Length"] = nil
    end
end

-- What the engine says at an answer's end lies in its last pieces.
local function body_filter()
    local ctx = ngx.ctx
    local request = ctx.request
    if request then
        local piece = ngx.arg[1]
        if piece ~= "" then
            request.chunks = request.chunks + 1
            request.before, request.last = request.last, piece
        end
        return
    end
    local user = ctx.lists_for
    if user and ngx.status == 200 then
        ctx.pieces = (ctx.pieces or "") .. ngx.arg[1]
        ngx.arg[1] = nil
        if ngx.arg[2] then
            ngx.arg[1] = filtered(user, ctx.pieces)
        end
    end
end

-- The last number under a name. Quotes inside a text of the model's have a backslash before them, so that it cannot pretend one.
local function last_number(text, name)
    local found
    local _, stop = find(text, name, 1, true)
    while stop do
        found = stop
        _, stop = find(text, name, stop + 1, true)
    end
    return found and tonumber(match(text, "^ ?(%d+)", found + 1))
end

-- Names of the tokens of prompt and completion in the answers of Ollama, OpenAI and Anthropic.
local USAGES = {{'"prompt_eval_count":', '"eval_count":'}, {'"prompt_tokens":', '"completion_tokens":'}, {'"input_tokens":', '"output_tokens":'}}

-- Tokens of prompt and completion, as the answer's end tells them.
local function usage(request)
    local text = (request.before or "") .. (request.last or "")
    if #text > 4096 then
        text = sub(text, -4096)
    end
    for i = 1, #USAGES do
        local prompt, completion = last_number(text, USAGES[i][1]), last_number(text, USAGES[i][2])
        if prompt or completion then
            return prompt, completion
        end
    end
    return nil
end

local function log()
    local request = ngx.ctx.request or next(admitted) and admitted[ngx.var.request_id]
    if not request then
        return
    end
    admitted[request.id] = nil
    if request.counted then
        count(request.user.running, -1)
    end
    if request.held then
        count("bodies", -request.held)
    end
    if request.model then
        leave(request)
    end
    if request.chunks == 0 or ngx.status ~= 200 then
        return
    end
    local prompt, completion = usage(request)
    local var = ngx.var
    var.gateway_prompt_tokens, var.gateway_completion_tokens = prompt or "", completion or ""
    if request.user.limits.daily_tokens then
        -- An answer that does not tell is counted by its pieces, of a token each, and by four bytes of the request to a token.
        local used = (prompt or math.ceil(request.size / 4)) + (completion or request.chunks)
        shared:incr("tokens:" .. day() .. ":" .. request.user.name, used, 0, 172800)
    end
end

-- ------------------------------------------------------------------------------------------------------------------

local function set(list)
    if type(list) ~= "table" then
        return nil
    end
    local found = {}
    for _, item in ipairs(list) do
        found[item] = true
    end
    return found
end

local function start(path)
    rules = load_rules(path)
    for name, value in pairs(rules) do
        if value == cjson.null then
            rules[name] = nil
        end
    end
    origins = set(rules.cors.origins)
    for _, route in ipairs(rules.routes) do
        if sub(route.path, -1) == "/" then
            below_routes[#below_routes + 1] = route
        else
            exact_routes[route.path] = route
        end
    end
    for _, user in ipairs(rules.users) do
        for name, value in pairs(user) do
            if value == cjson.null then
                user[name] = nil
            end
        end
        if user.limits.daily_tokens == cjson.null then
            user.limits.daily_tokens = nil
        end
        user.rate, user.running = "rate:" .. user.name, "user:" .. user.name
        user.rights = set(user.rights)
        if user.models then
            local models = {}
            for _, name in ipairs(user.models) do
                models[canonical(name) or name] = true
            end
            user.models = models
        end
        users[user.name] = user
        if user.password_hash then
            nobody = {name = "", password_hash = user.password_hash}
        end
        for _, key in ipairs(user.keys) do
            keys[unhex(key.sha256)] = {user = user, ends = key.ends and epoch(key.ends) or nil}
        end
        for _, certificate in ipairs(user.certificates) do
            if certificate.sha256 and certificate.sha256 ~= "" then
                certificates_by_digest[unhex(certificate.sha256)] = user
            else
                certificates_by_subject[certificate.subject] = user
            end
        end
    end
    if rules.models then
        local models = {}
        for _, model in ipairs(rules.models) do
            model.key = canonical(model.name) or model.name
            model.running, model.waiting, model.line = "running:" .. model.queue, "waiting:" .. model.queue, "line:" .. model.queue
            models[model.key] = model
        end
        rules.models = models
    end
end

start(...)
return {access = access, stranger = stranger, status = status, header_filter = header_filter, body_filter = body_filter, log = log}
