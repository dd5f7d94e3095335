-- Who asks: users by their keys, passwords and certificates.
-- Copyright (c) 2026 onprem.llm contributors
-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- SPDX-License-Identifier: GPL-3.0-or-later

local rules, counters = ...

local ffi = require "ffi"

local ngx = ngx
local C = ffi.C
local find, lower, match, sub = string.find, string.lower, string.match, string.sub
local strangers = ngx.shared.onprem_llm_strangers

ffi.cdef [[
int SHA256_Init(void *context);
int SHA256_Update(void *context, const char *data, size_t size);
int SHA256_Final(unsigned char *digest, void *context);
char *crypt_r(const char *phrase, const char *setting, void *data);
]]

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

local users, keys, certificates_by_digest, certificates_by_subject = {}, {}, {}, {}
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

-- Whether an address that fails may try again; if not, the seconds to wait.
local function may_fail()
    local address = rules.address
    return counters.take(strangers, "failed:" .. ngx.var.onprem_llm_address, address.failures_per_second, address.failures_burst)
end

for _, user in ipairs(rules.users) do
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

return {authenticate = authenticate, may_fail = may_fail}
