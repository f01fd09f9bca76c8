//! What runs on the server: each script is atomic, and checks before it writes anything.
//!
//! The rules of a chain are applied by the client, to the state that it has read. What writes
//! compares that state with the one that is there, byte for byte, and does nothing where it has
//! changed; the client then reads anew. Numbers stay text: Lua's are floats.
//!
//! A chain is a field of its workflow's hash, with its state in it; a sorted set with a member
//! `c<sequence><write id>` for each checkpoint and `w<sequence>/<name>` for each write of a task,
//! in the order of their bytes; and a hash with the records of both, as `c<sequence>` and
//! `w<sequence>/<name>`, and the sequence of each write id, as `i<write id>`.

use redis::Script;

/// Answers that the state has changed.
pub(super) const CHANGED: u8 = 0;
/// Answers that it is done.
pub(super) const DONE: u8 = 1;
/// Answers that the write id was used.
pub(super) const USED: u8 = 2;

/// The scripts, with their hashes.
pub(super) struct Scripts {
    pub(super) state: Script,
    pub(super) states: Script,
    pub(super) read: Script,
    pub(super) put: Script,
    pub(super) put_writes: Script,
    pub(super) lease: Script,
    pub(super) delete: Script,
    pub(super) prune: Script,
}

/// Keys: chains, data. Arguments: namespace, a sequence, a write id.
const STATE: &str = "
local time = redis.call('TIME')
return {
    time[1], time[2],
    redis.call('HGET', KEYS[1], ARGV[1]),
    redis.call('HEXISTS', KEYS[2], 'c' .. ARGV[2]),
    redis.call('HGET', KEYS[2], 'i' .. ARGV[3])
}
";

/// Keys: chains.
const STATES: &str = "
local time = redis.call('TIME')
return {time[1], time[2], redis.call('HGETALL', KEYS[1])}
";

/// Keys: chains, index, data. Arguments: namespace, the greatest and the least member, a limit.
const READ: &str = "
local read = {}
local found = redis.call('ZREVRANGEBYLEX', KEYS[2], ARGV[2], ARGV[3], 'LIMIT', 0, ARGV[4])
for _, member in ipairs(found) do
    local at = string.sub(member, 2, 21)
    local names = redis.call('ZRANGEBYLEX', KEYS[2], '[w' .. at .. '/', '(w' .. at .. '0')
    local writes = {}
    for i, name in ipairs(names) do
        writes[i] = redis.call('HGET', KEYS[3], name)
    end
    read[#read + 1] = {at, redis.call('HGET', KEYS[3], 'c' .. at), writes}
end
return {redis.call('HGET', KEYS[1], ARGV[1]), read}
";

/// Removes all but the newest checkpoints of a chain, with their writes.
const PRUNE_BELOW: &str = "
local function prune(index, data, keep)
    local over = redis.call('ZLEXCOUNT', index, '[c', '(d') - keep
    if over <= 0 then
        return 0
    end
    for _, member in ipairs(redis.call('ZRANGEBYLEX', index, '[c', '(d', 'LIMIT', 0, over)) do
        local at = string.sub(member, 2, 21)
        local names = redis.call('ZRANGEBYLEX', index, '[w' .. at .. '/', '(w' .. at .. '0')
        for _, name in ipairs(names) do
            redis.call('HDEL', data, name)
            redis.call('ZREM', index, name)
        end
        redis.call('HDEL', data, 'c' .. at, 'i' .. string.sub(member, 22))
        redis.call('ZREM', index, member)
    end
    return over
end
";

/// Keys: chains, index, data. Arguments: namespace, the state before and after, the sequence, the
/// write id, the record, how many stay or 0.
const PUT: &str = "
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then
    return 0
end
if redis.call('HEXISTS', KEYS[3], 'i' .. ARGV[5]) == 1 then
    return 2
end
redis.call('ZCARD', KEYS[2])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('HSET', KEYS[3], 'c' .. ARGV[4], ARGV[6], 'i' .. ARGV[5], ARGV[4])
redis.call('ZADD', KEYS[2], 0, 'c' .. ARGV[4] .. ARGV[5])
if ARGV[7] ~= '0' then
    prune(KEYS[2], KEYS[3], tonumber(ARGV[7]))
end
return 1
";

/// Keys: chains, index, data. Arguments: namespace, the state, the sequence, then of each write
/// the name, whether the first one stands, and the record.
const PUT_WRITES: &str = "
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then
    return 0
end
if redis.call('HEXISTS', KEYS[3], 'c' .. ARGV[3]) == 0 then
    return 0
end
redis.call('ZCARD', KEYS[2])
for i = 4, #ARGV, 3 do
    local name = 'w' .. ARGV[3] .. '/' .. ARGV[i]
    if ARGV[i + 1] == '1' then
        redis.call('HSETNX', KEYS[3], name, ARGV[i + 2])
    else
        redis.call('HSET', KEYS[3], name, ARGV[i + 2])
    end
    redis.call('ZADD', KEYS[2], 0, name)
end
return 1
";

/// Keys: chains. Arguments: namespace, the state before and after.
const LEASE: &str = "
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then
    return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
";

/// Keys: chains, then index and data of each. Arguments: of each the namespace, the state before
/// and after.
const DELETE: &str = "
if redis.call('HLEN', KEYS[1]) * 3 ~= #ARGV then
    return 0
end
for i = 1, #ARGV, 3 do
    if redis.call('HGET', KEYS[1], ARGV[i]) ~= ARGV[i + 1] then
        return 0
    end
end
for i = 1, #ARGV, 3 do
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
end
for i = 2, #KEYS do
    redis.call('UNLINK', KEYS[i])
end
return 1
";

/// Keys: index, data. Arguments: how many stay.
const PRUNE: &str = "
redis.call('HLEN', KEYS[2])
return prune(KEYS[1], KEYS[2], tonumber(ARGV[1]))
";

// ===== impl Scripts =====

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            state: Script::new(STATE),
            states: Script::new(STATES),
            read: Script::new(READ),
            put: Script::new(&[PRUNE_BELOW, PUT].concat()),
            put_writes: Script::new(PUT_WRITES),
            lease: Script::new(LEASE),
            delete: Script::new(DELETE),
            prune: Script::new(&[PRUNE_BELOW, PRUNE].concat()),
        }
    }
}
