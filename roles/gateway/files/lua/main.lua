-- What the gateway decides about a request: who sends it, whether it may pass, and when. The site's phases call the functions at the end.
-- Copyright (c) 2026 onprem.llm contributors
-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- SPDX-License-Identifier: GPL-3.0-or-later

-- This file's directory, where the parts lie by their names, and the file of the rules.
local directory, rules_file = ...

-- Requests leave little behind; without this the collector would walk through what stays all the time.
collectgarbage("setpause", 400)

local cjson = require "cjson.safe"

local ngx = ngx
local byte, find, format, lower, match, sub = string.byte, string.find, string.format, string.lower, string.match, string.sub
local shared = ngx.shared.onprem_llm_counters
local get_headers, worker_pid = ngx.req.get_headers, ngx.worker.pid

local function part(name, ...)
    return assert(loadfile(directory .. "/" .. name .. ".lua"))(...)
end

local answers, canonical, counters, json, usage = part("answers"), part("names"), part("counters"), part("json"), part("usage")
local refuse, say = answers.refuse, answers.say
local count, take = counters.count, counters.take
local read_json, ROLES, TYPES_OF_TOOLS = json.read, json.ROLES, json.TYPES_OF_TOOLS

-- ------------------------------------------------------------------------------------------------------------------
-- The rules that the role wrote, read once by each worker

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

-- What is null counts as left out.
local function without_null(values)
    for name, value in pairs(values) do
        if value == cjson.null then
            values[name] = nil
        end
    end
    return values
end

local function load_rules()
    local file = assert(io.open(rules_file, "rb"))
    local rules = without_null(assert(cjson.decode(file:read("*a"))))
    file:close()
    for _, user in ipairs(rules.users) do
        without_null(user)
        without_null(user.limits)
        user.rate, user.running = "rate:" .. user.name, "user:" .. user.name
        user.rights = set(user.rights)
        if user.models then
            local models = {}
            for _, name in ipairs(user.models) do
                models[canonical(name) or name] = true
            end
            user.models = models
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
    return rules
end

local rules = load_rules()
local origins = set(rules.cors.origins)
local exact_routes, below_routes = {}, {}
-- The files of the status page, which another program writes.
local PAGES = {["/status/"] = {"index.html", "text/html; charset=utf-8"}, ["/status/style.css"] = {"style.css", "text/css; charset=utf-8"}}
if rules.page then
    for path in pairs(PAGES) do
        exact_routes[path] = {path = path, method = "GET", role = rules.page.role}
    end
end
for _, route in ipairs(rules.routes) do
    if sub(route.path, -1) == "/" then
        below_routes[#below_routes + 1] = route
    else
        exact_routes[route.path] = route
    end
end

local credentials, queue = part("credentials", rules, counters), part("queue", rules, counters)
local enter, leave = queue.enter, queue.leave

-- ------------------------------------------------------------------------------------------------------------------
-- What a request may say

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
local RIGHT_OF = {
    {"raw", "raw"}, {"context", "raw"}, {"template", "template"}, {"_debug_render_only", "template"}, {"system", "system"}, {"instructions", "system"},
}

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
-- What this worker's identifiers begin with, and how many it gave.
local worker_bits, given_ids = nil, 0

-- An identifier like nginx's own, which asks for random bits each time: 5 us, as much as to read the body's JSON.
local function new_id()
    given_ids = given_ids + 1
    return worker_bits .. format("%08x", given_ids % 4294967296)
end

local function day()
    return math.floor(ngx.time() / 86400)
end

local function access()
    local var = ngx.var
    if not started then
        started = true
        worker_bits = sub(var.request_id, 1, 24)
        shared:rpush("workers", worker_pid())
        ngx.timer.every(2, queue.bury_the_dead)
    end
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

    local user, ambient = credentials.authenticate(headers)
    if not user then
        local within, wait = credentials.may_fail()
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
        request = {id = new_id(), user = user, chunks = 0}
        var.gateway_request_id = request.id
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
    if not json.is_utf8(text) then
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

-- As access, for the status page, which some networks see without a credential.
local function page_access()
    local var = ngx.var
    local method = ngx.req.get_method()
    local path = written_path(method, var.request, var.uri)
    if var.onprem_llm_page_open == "1" and path and PAGES[path] and (method == "GET" or method == "HEAD") then
        var.gateway_route = path
        ngx.req.discard_body()
        return
    end
    return access()
end

-- The status page. One that is older than it says it may be is marked, so that whoever wrote it may be gone.
local function page()
    local name, kind = unpack(PAGES[ngx.var.gateway_route] or {})
    local file = name and io.open(rules.page.directory .. "/" .. name, "rb")
    if not file then
        return refuse(503, "no_status", "There is no status page yet. onprem-llm-status.service writes it.", nil, 30)
    end
    local text = file:read("*a")
    file:close()
    local until_when = tonumber(match(text, '^<!doctype html>\n<html lang="en" data%-fresh%-until="(%d+)">'))
    if until_when and ngx.time() > until_when then
        text = text:gsub("<html ", '<html class="stale" ', 1)
    end
    ngx.header["Content-Type"] = kind
    ngx.header["Content-Length"] = #text
    ngx.print(text)
end

-- Answers who has no credential, in a location that does not keep the connection.
local function stranger()
    local wait = ngx.var.gateway_wait
    if wait ~= "" then
        return refuse(429, "rate_limit_exceeded", "Too many failed attempts. Wait, and try again.", nil, wait)
    end
    -- A browser asks for a password.
    if rules.page and find(ngx.var.request_uri, "/status/", 1, true) == 1 then
        ngx.header["WWW-Authenticate"] = 'Basic realm="onprem-llm", charset="UTF-8"'
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

local function log()
    local request = ngx.ctx.request or next(admitted) and admitted[ngx.var.gateway_request_id]
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

return {access = access, page_access = page_access, page = page, stranger = stranger, status = status, header_filter = header_filter, body_filter = body_filter, log = log}
