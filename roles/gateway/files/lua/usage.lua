-- Tokens, by what an answer says of them at its end.
-- Copyright (c) 2026 onprem.llm contributors
-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- SPDX-License-Identifier: GPL-3.0-or-later

local find, match, sub = string.find, string.match, string.sub

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

return usage
