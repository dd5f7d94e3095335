-- Names of models.
-- Copyright (c) 2026 onprem.llm contributors
-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- SPDX-License-Identifier: GPL-3.0-or-later

local find, lower, match = string.find, string.lower, string.match

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

return canonical
