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
    "memory" "private memory" PLAIN, [], Fate::Carried, "protections, code, sparse and growing areas, advice, locked pages, private file mappings";
    "memory_full" "private memory" Criu::No("criu 4.2.1 forgets MLOCK_ONFAULT"), [], Fate::Carried, "the same, and what criu loses of it";
    "guard_pages" "guard regions" PLAIN, [Need::Kernel(6, 13)], Fate::Carried, "MADV_GUARD_INSTALL: faults, neighbours, removal";
    "shared_anon" "shared memory" PLAIN, [], Fate::Carried, "shared anonymous memory of two processes, mapped in parts, twice, read-only, /dev/zero";
    "shared_file" "shared file mappings" PLAIN, [], Fate::Carried, "shared file mappings of two processes, at an offset, read-only, coherent with the file";
    "memfd" "memfd" PLAIN, [], Fate::Carried, "names, seals, holes, positions, a second opening, a mapping shared with a child";
    "fpu" "extended registers" PLAIN, [], Fate::Carried, "x87, SSE, AVX, AVX-512 and control words, sleeping and spinning";
    "fpu_static" "extended registers" PLAIN, [], Fate::Carried, "the same, statically linked";
    "avx_loop" "extended registers" PLAIN, [], Fate::Carried, "two threads that fill and compare all extended registers without pause";
    "prime" "computation" PLAIN, [], Fate::Carried, "a long computation whose digest must equal that of an undisturbed one";
    "prime_static" "computation" PLAIN, [], Fate::Carried, "the same, statically linked";
    "creds" "credentials" PLAIN, [Need::Root], Fate::Carried, "groups, five capability sets, securebits, no_new_privs";
    "creds_full" "credentials" Criu::No("criu reads limits with prlimit64, which needs CAP_SYS_RESOURCE for another user's process"), [Need::Root], Fate::Carried, "the same with user and group ids all different, and a thread with its own";
    "creds_user" "credentials" Criu::No("criu reads limits with prlimit64, which needs CAP_SYS_RESOURCE for another user's process"), [Need::Root], Fate::Carried, "user 999 without capabilities, as services run";
    "rlimits" "resource limits" PLAIN, [], Fate::Carried, "all sixteen, soft and hard";
    "seccomp_filter" "seccomp" PLAIN, [], Fate::Carried, "stacked filters, spread by TSYNC, one of a single thread, their answers";
    "seccomp_kill" "seccomp" PLAIN, [], Fate::Carried, "a filter that kills on every system call the program does not make itself";
    "seccomp_strict" "seccomp" PLAIN, [], Fate::Carried, "strict mode in a child";
    "sched" "scheduling" PLAIN, [Need::Root], Fate::Carried, "policies, priorities and nice values of seven threads";
    "sched_full" "scheduling" Criu::No("criu 4.2.1 keeps no cpu affinity"), [Need::Root], Fate::Carried, "the same with allowed cpus, i/o priority, reset-on-fork";
    "attributes" "process attributes" PLAIN, [], Fate::Carried, "oom_score_adj, parent death signal, dumpable, subreaper, huge pages off";
    "attributes_full" "process attributes" Criu::No("criu 4.2.1 keeps no timer slack, personality, core dump filter, machine-check policy"), [], Fate::Carried, "the same with timer slack, personality, core dump filter, machine-check policy";
    "names" "names" PLAIN, [], Fate::Carried, "name, executable, arguments, environment, auxiliary vector, vdso";
    "rseq" "rseq" PLAIN, [], Fate::Carried, "per-cpu counters by restartable sequences, and the registration";
    "robust_list" "robust mutexes" PLAIN, [], Fate::Carried, "mutexes handed over at the end of a thread and a process; the cleared thread-id word";
    "membarrier" "membarrier" PLAIN, [], Fate::Carried, "registrations, and that they work";
];
