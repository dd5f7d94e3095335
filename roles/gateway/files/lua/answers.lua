-- Answers of the gateway's own.
-- Copyright (c) 2026 onprem.llm contributors
-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- SPDX-License-Identifier: GPL-3.0-or-later

local cjson = require "cjson.safe"

local ngx = ngx

-- Ends the request with an error in OpenAI's shape.
local TYPES = {[429] = "rate_limit_error", [500] = "server_error", [503] = "server_error"}

local function refuse(status, code, message, param, retry_after)
    ngx.var.gateway_code = code
    ngx.status = status
    ngx.header["Content-Type"] = "application/json"
    if retry_after then
        ngx.header["Retry-After"] = retry_after
    end
    if status == 401 and not ngx.header["WWW-Authenticate"] then
        ngx.header["WWW-Authenticate"] = 'Bearer realm="onprem-llm"'
    end
    ngx.print(cjson.encode({error = {
        message = message, type = TYPES[status] or "invalid_request_error", param = param or cjson.null, code = code}}), "\n")
    return ngx.exit(status)
end

-- Ends it with JSON.
local function say(value)
    ngx.status = 200
    ngx.header["Content-Type"] = "application/json"
    ngx.print(value, "\n")
    return ngx.exit(200)
end

return {refuse = refuse, say = say}
