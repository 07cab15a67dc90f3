//! The rows.

#[allow(unused_imports, reason = "rows come and go with the kernel they need")]
use super::Need;
use super::{Criu, Fate, Victim};

const PLAIN: Criu = Criu::Supported(&[]);

macro_rules! rows {
    ($($name:literal $kind:literal $criu:expr, [$($need:expr),*], $fate:expr, $what:literal;)*) => {
        &[$(Victim {
            name: $name,
            path: concat!(env!("OUT_DIR"), "/victims/", $name),
            kind: $kind,
            needs: &[$($need),*],
            fate: $fate,
            criu: $criu,
            what: $what,
        }),*]
    };
}

pub(super) static TABLE: &[Victim] = rows![
    "counter_static" "process" PLAIN, [], Fate::Carried,
        "one static thread: data, bss, heap, brk, mapping, counter, ids";
    "threads" "threads" PLAIN, [], Fate::Carried,
        "eight threads: registers, thread-local data, names, masks, alternate stacks, futexes, joining";
    "threads_static" "threads" PLAIN, [], Fate::Carried, "the same, statically linked";
    "signals" "signals" PLAIN, [], Fate::Carried,
        "actions of all 64, masks, alternate stacks, pending ones of process and threads with siginfo, in order";
    "signals_full" "signals" Criu::No("criu's own traps reset an ignored SIGTRAP to its default"), [], Fate::Carried, "the same, and what criu loses of it";
    "signals_static" "signals" PLAIN, [], Fate::Carried, "the same, statically linked";
    "itimers" "interval timers" PLAIN, [], Fate::Carried,
        "three interval timers far from expiring: value and interval";
    "itimers_static" "interval timers" PLAIN, [], Fate::Carried, "the same, statically linked";
    "itimers_live" "interval timers" PLAIN, [], Fate::Carried,
        "three interval timers ticking into handlers all the time";
    "posix_timers" "posix timers" PLAIN, [], Fate::Carried,
        "ids with gaps, four clocks, each notification, overruns, intervals";
    "posix_timers_full" "posix timers" Criu::No("criu 4.2.1 restores a pending timer signal with overrun 0"), [], Fate::Carried, "the same, and what criu loses of it";
    "files" "files" PLAIN, [], Fate::Carried,
        "regular files and a directory: positions, flags, duplicates, descriptor numbers";
    "files_full" "files" Criu::No("criu 4.2.1 forgets O_DIRECTORY among the status flags"), [], Fate::Carried, "the same, and what criu loses of it";
    "files_static" "files" PLAIN, [], Fate::Carried, "the same, statically linked";
    "pipe" "pipes" PLAIN, [], Fate::Carried,
        "pipes with bytes, packets, sizes, flags, one end closed, duplicates";
    "pipe_full" "pipes" Criu::No("criu: the packetized mode for pipes is not supported yet"), [], Fate::Carried, "the same, and what criu loses of it";
    "pipe_static" "pipes" PLAIN, [], Fate::Carried, "the same, statically linked";
    "eventfd" "eventfd" PLAIN, [], Fate::Carried,
        "counters up to the largest, semaphore flag, flags, duplicates";
    "eventfd_full" "eventfd" Criu::No("criu 4.2.1 forgets EFD_SEMAPHORE and the upper half of the counter"), [], Fate::Carried, "the same, and what criu loses of it";
    "eventfd_static" "eventfd" PLAIN, [], Fate::Carried, "the same, statically linked";
];
