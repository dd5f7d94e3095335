-- JSON: where its parts are, without building it. Where a string ends and what is nested in what is read as Go's decoder reads it; what that
-- decoder refuses by itself (a broken escape, a control character) is left to it.
-- Copyright (c) 2026 onprem.llm contributors
-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- SPDX-License-Identifier: GPL-3.0-or-later

local bit = require "bit"
local cjson = require "cjson.safe"
local ffi = require "ffi"

local ngx = ngx
local byte, find, lower, sub = string.byte, string.find, string.lower, string.sub

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

-- Position behind the ASCII bytes from i on, as far as words of eight bytes tell, four of them at a time where there are as many.
local function ascii_words(p, i, stop)
    while i + 32 <= stop do
        local words = ffi.cast(WORD, p + i)
        if bit.band(bit.bor(bit.bor(words[0], words[1]), bit.bor(words[2], words[3])), HIGHEST) ~= 0 then
            break
        end
        i = i + 32
    end
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

return {is_utf8 = is_utf8, read = read_json, ROLES = ROLES, TYPES_OF_TOOLS = TYPES_OF_TOOLS}
