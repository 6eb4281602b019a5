//! The scripts that Redis runs, each as one step.
//!
//! A message of the group is in one place: not delivered yet, in the pending list of a consumer, or
//! in the sorted set of delays. Each script moves a message between two of them and never leaves it in
//! none. The first key is the stream; the first arguments are the group and this consumer.
//!
//! A script for a claimed message does nothing if the pending list has the message under another consumer
//! or with another number of deliveries. So a command that is sent again, because its answer was lost, does
//! not touch a later claim, not even one of this consumer.

use redis::Cmd;

use super::Names;
use crate::receipt::DeadReason;

/// A script's lines that return a 0 if the claim is over. ARGV: group, consumer, id, deliveries.
macro_rules! own {
    ($rest:literal) => {
        concat!(
            "local held = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2])[1]\n",
            "if not held or held[4] ~= tonumber(ARGV[4]) then return 0 end\n",
            $rest
        )
    };
}

const EXTEND: &str = own!(
    "redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'JUSTID')
     return 1"
);

/// KEYS[2]: the delays. ARGV: ..., delay in ms. A delay's member is `DELIVERIES ID`, so one number is
/// enough to deliver the message again.
const NACK: &str = own!(
    "local now = redis.call('TIME')
     local due = now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[5]
     redis.call('ZADD', KEYS[2], due, ARGV[4] .. ' ' .. ARGV[3])
     return redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])"
);

/// ARGV: group, ids. Returns a 1 or a 0 for each id. A message that another worker has is not deleted.
const ACK_AND_DELETE: &str = "
local acked = {}
for i = 2, #ARGV do
  acked[i - 1] = redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
  if acked[i - 1] == 1 then redis.call('XDEL', KEYS[1], ARGV[i]) end
end
return acked";

/// KEYS[2]: the dead letters. ARGV: ..., delete (0 or 1), then fields and values to add. A call of Lua takes
/// fewer than 8,000 arguments, so a message of more than 3,000 fields makes several letters.
const DEAD: &str = own!(
    "local entry = redis.call('XRANGE', KEYS[1], ARGV[3], ARGV[3])[1]
     local fields = entry and entry[2] or {}
     for first = 1, math.max(#fields, 1), 6000 do
       local letter = {unpack(fields, first, math.min(first + 5999, #fields))}
       for i = 6, #ARGV do letter[#letter + 1] = ARGV[i] end
       redis.call('XADD', KEYS[2], '*', unpack(letter))
     end
     redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
     if ARGV[5] == '1' then redis.call('XDEL', KEYS[1], ARGV[3]) end
     return 1"
);

/// KEYS[2]: the delays. ARGV: group, consumer, ack wait in ms, room. Takes what is due among the
/// delays and what is pending for longer than the ack wait. Returns the milliseconds until the next
/// delay is over (-1: there is none), then a list of id, deliveries and fields.
const SWEEP: &str = "
local time, room, found = redis.call('TIME'), tonumber(ARGV[4]), {}
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function claim(idle, id, deliveries)
  local entry = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], idle, id,
    'RETRYCOUNT', deliveries, 'FORCE')[1]
  if entry then found[#found + 1] = {id, tonumber(deliveries), entry[2]} end
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, room)) do
  local deliveries, id = string.match(member, '^(%d+) (.+)$')
  claim(0, id, deliveries + 1)
  redis.call('ZREM', KEYS[2], member)
end
if room > #found then
  local idle = redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], '-', '+', room - #found)
  for _, pending in ipairs(idle) do claim(ARGV[3], pending[1], pending[4] + 1) end
end
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
return {first and math.max(first - now, 0) or -1, found}";

/// Removes the consumers of processes that are gone: without a message, and silent for ARGV[2] ms.
const TIDY: &str = "
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  if string.match(consumer[2], '^millpond%-') and consumer[4] == 0
    and consumer[6] > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer[2])
  end
end
return 0";

/// The id of a claimed message, and the number of the delivery that the claim is for.
pub(crate) type Claim<'a> = (&'a str, u32);

fn eval(script: &str, keys: &[&str]) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(keys.len()).arg(keys);
    command
}

/// Makes the command of a script that begins with `own`.
fn eval_own(script: &str, keys: &[&str], names: &Names, (id, deliveries): Claim<'_>) -> Cmd {
    let mut command = eval(script, keys);
    command.arg(&names.group).arg(&names.consumer).arg(id).arg(deliveries);
    command
}

pub(crate) fn extend(names: &Names, claim: Claim<'_>) -> Cmd {
    eval_own(EXTEND, &[&names.stream], names, claim)
}

/// Acknowledges many messages. The answer is their number, or a list if they are deleted as well.
pub(crate) fn ack(names: &Names, ids: &[&str]) -> Cmd {
    let mut command = if names.delete_acked {
        eval(ACK_AND_DELETE, &[&names.stream])
    } else {
        let mut command = redis::cmd("XACK");
        command.arg(&names.stream);
        command
    };
    command.arg(&names.group).arg(ids);
    command
}

pub(crate) fn nack(names: &Names, claim: Claim<'_>, after: std::time::Duration) -> Cmd {
    let mut command = eval_own(NACK, &[&names.stream, &names.delayed], names, claim);
    // Rounded up: no message comes before its time.
    command.arg(after.as_nanos().div_ceil(1_000_000) as u64);
    command
}

pub(crate) fn dead(names: &Names, claim: Claim<'_>, why: &DeadReason) -> Cmd {
    let mut command = eval_own(DEAD, &[&names.stream, &names.dead], names, claim);
    command.arg(u8::from(names.delete_acked));
    command.arg("millpond-id").arg(claim.0);
    command.arg("millpond-reason").arg(&why.reason);
    command.arg("millpond-deliveries").arg(why.deliveries);
    command.arg("millpond-place").arg(why.place());
    command
}

pub(crate) fn sweep(names: &Names, room: usize) -> Cmd {
    let mut command = eval(SWEEP, &[&names.stream, &names.delayed]);
    let ack_wait = names.ack_wait.as_millis() as u64;
    command.arg(&names.group).arg(&names.consumer).arg(ack_wait).arg(room);
    command
}

pub(crate) fn tidy(names: &Names) -> Cmd {
    let mut command = eval(TIDY, &[&names.stream]);
    let silent = names.ack_wait.as_millis() as u64 * 10 + 600_000;
    command.arg(&names.group).arg(silent);
    command
}
