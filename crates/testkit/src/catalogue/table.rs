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
    "changing_memory" "private memory" PLAIN, [], Fate::Carried, "four threads that write, throw away, move, cut and fork their memory all the time";
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
    "seccomp_kill" "seccomp" PLAIN, [], Fate::Refused("seccomp filter"), "a filter that kills on every system call the program does not make itself";
    "seccomp_strict" "seccomp" PLAIN, [], Fate::Refused("seccomp's strict mode"), "strict mode in a child";
    "sched" "scheduling" PLAIN, [Need::Root], Fate::Carried, "policies, priorities and nice values of seven threads";
    "sched_full" "scheduling" Criu::No("criu 4.2.1 keeps no cpu affinity"), [Need::Root], Fate::Carried, "the same with allowed cpus, i/o priority, reset-on-fork";
    "attributes" "process attributes" PLAIN, [], Fate::Carried, "oom_score_adj, parent death signal, dumpable, subreaper, huge pages off";
    "attributes_full" "process attributes" Criu::No("criu 4.2.1 keeps no timer slack, personality, core dump filter, machine-check policy"), [], Fate::Carried, "the same with timer slack, personality, core dump filter, machine-check policy";
    "names" "names" PLAIN, [], Fate::Carried, "name, executable, arguments, environment, auxiliary vector, vdso";
    "rseq" "rseq" PLAIN, [], Fate::Carried, "per-cpu counters by restartable sequences, and the registration";
    "robust_list" "robust mutexes" PLAIN, [], Fate::Carried, "mutexes handed over at the end of a thread and a process; the cleared thread-id word";
    "membarrier" "membarrier" PLAIN, [], Fate::Carried, "registrations, and that they work";
    "files_fork" "shared openings" PLAIN, [], Fate::Carried, "openings shared by fork and by passing, renumbered, closed on one side";
    "files_unlinked" "unlinked files" Criu::Supported(&["--link-remap"]), [], Fate::Carried, "open files whose names are gone, replaced, changed; a mapping of one";
    "files_unlinked_full" "unlinked files" Criu::No("criu cannot link an unlinked directory or a file of O_TMPFILE back"), [], Fate::Carried, "the same, an unlinked directory, a file of O_TMPFILE";
    "devices" "character devices" PLAIN, [], Fate::Carried, "null, zero, full, random, urandom; a private mapping";
    "file_locks" "file locks" Criu::Supported(&["--file-locks"]), [], Fate::Carried, "flock and record locks of two processes, tried by a stranger";
    "file_locks_full" "file locks" Criu::No("criu 4.2.1 loses a child's record lock on an opening it inherited"), [], Fate::Carried, "the same with locks of an opening";
    "cwd_umask_root" "directories of a process" PLAIN, [Need::Root], Fate::Carried, "working directory, another root, umask, shared by CLONE_FS";
    "cwd_umask_root_full" "directories of a process" Criu::No("criu refuses processes that share their directories: Can't make FS id"), [Need::Root], Fate::Carried, "the same with a working directory that was removed";
    "pipe_fork" "pipes" PLAIN, [], Fate::Carried, "a pipeline of three processes under load: every number once, in order";
    "fifo" "named pipes" PLAIN, [], Fate::Carried, "reader and writer in two processes, bytes in it, opened for both";
    "epoll" "epoll" PLAIN, [], Fate::Carried, "levels, edges, one-shots armed and spent, nested sets, data values";
    "epoll_full" "epoll" PLAIN, [], Fate::Carried, "the same, a target kept by a duplicate, an edge already taken";
    "timerfd" "timerfd" PLAIN, [], Fate::Carried, "three clocks, relative, absolute, ticking, expired with ticks unread";
    "timerfd_full" "timerfd" Criu::No("criu 4.2.1 disarms an interval timer that has expired and was not read"), [], Fate::Carried, "the same with one that reports jumps of the clock";
    "signalfd" "signalfd" PLAIN, [], Fate::Carried, "masks, one changed later, a waiting signal with its value";
    "inotify" "inotify" PLAIN, [], Fate::Carried, "watch numbers with gaps, masks, fresh events";
    "inotify_full" "inotify" Criu::No("criu 4.2.1 drops events that wait unread"), [], Fate::Refused("unread events"), "the same with events that waited unread";
    "unix_pair" "unix sockets" PLAIN, [], Fate::Carried, "stream, datagram, packets: queues, shutdown, closed ends, options, a child";
    "unix_pair_full" "unix sockets" Criu::No("criu 4.2.1 loses an empty datagram"), [], Fate::Carried, "the same, the peer's credentials, an open file on its way";
    "unix_listen" "unix sockets" Criu::Supported(&["--ext-unix-sk"]), [], Fate::Carried, "listeners by path and abstract name, backlog, accepted connections";
    "unix_listen_full" "unix sockets" Criu::No("criu 4.2.1 loses the name of an accepted socket"), [], Fate::Carried, "the same with one whose path is gone";
    "unix_backlog" "unix sockets" Criu::No("criu refuses bytes on a connection not yet accepted: Non-empty write queue on an in-flight socket"), [], Fate::Refused("accept"), "a connection that waits to be accepted, with bytes in it";
    "unix_dgram" "unix sockets" PLAIN, [], Fate::Carried, "named and nameless senders, queues, peers";
    "unix_dgram_full" "unix sockets" Criu::No("criu 4.2.1 gives waiting datagrams other senders"), [], Fate::Carried, "the same with the sender of each message";
    "unix_more" "unix sockets" Criu::No("criu: Control messages in queue, not supported"), [Need::Root], Fate::Carried, "peers' credentials, descriptors amid a stream and in queues of queues, resets, peers that are gone, a backlog";
    "fown" "owners of files" PLAIN, [], Fate::Carried, "signals of files: to a process, a group, a child";
    "fown_full" "owners of files" Criu::No("criu 4.2.1 looks for an owning thread before there are threads"), [], Fate::Carried, "the same to a thread";
    "tcp_listen" "tcp sockets" PLAIN, [], Fate::Carried, "listeners of IPv4 and IPv6, options, backlog, SO_REUSEPORT, shared with a child";
    "tcp_listen_full" "tcp sockets" Criu::No("criu 4.2.1 loses TCP_DEFER_ACCEPT and others"), [], Fate::Carried, "the same with more options";
    "tcp_bound" "tcp sockets" PLAIN, [], Fate::Carried, "bound and fresh sockets";
    "udp_bound" "udp sockets" PLAIN, [], Fate::Carried, "bound, connected, options, IPv6";
    "udp_bound_full" "udp sockets" Criu::No("criu 4.2.1 drops datagrams that wait"), [], Fate::Carried, "the same with waiting datagrams, a group, type of service";
    "tcp_established" "tcp connections" Criu::Supported(&["--tcp-established", "--network-lock", "skip"]), [], Fate::Carried, "both ends of a connection: carried whole, or closed cleanly";
    "tree" "process trees" PLAIN, [], Fate::Carried, "sessions, groups, grandchildren, an orphan with a subreaper, signals to groups";
    "tree_full" "process trees" Criu::No("criu 4.2.1 gives the orphan of a session without leader to init"), [], Fate::Carried, "the same, a group and a session without their leaders, another signal at the end";
    "zombie" "zombies" PLAIN, [], Fate::Carried, "exit codes, signals, another session, the leader of a living group";
    "zombie_full" "zombies" Criu::No("criu 4.2.1 keeps seven bits of an exit code"), [], Fate::Carried, "the same with an exit code above 127";
    "stopped" "stopped processes" PLAIN, [], Fate::Carried, "stopped and staying so until told";
    "stopped_full" "stopped processes" Criu::No("criu 4.2.1 reports a stop again"), [], Fate::Carried, "the same with a stop nobody has asked about yet";
    "clone_files" "process trees" PLAIN, [], Fate::Carried, "two processes with one table of descriptors";
    "clone_vm" "process trees" Criu::No("criu refuses a shared address space: Can't make VM id"), [], Fate::Refused("shared address space"), "two processes with one address space";
    "goroutines" "threads" PLAIN, [], Fate::Carried, "small stacks in the heap, alternate signal stacks, preempted by signals";
    "blocked" "interrupted calls" Criu::Supported(&["--file-locks"]), [], Fate::Carried, "26 waiting calls: woken with the right result, or at the end of their time";
    "blocked_full" "interrupted calls" Criu::No("criu 4.2.1 ends calls with a remaining time with EINTR"), [], Fate::Carried, "the same without a single EINTR";
    "waits" "interrupted calls" PLAIN, [], Fate::Carried, "nanosleep, poll and futex in use all the time: no sleep too short, nothing lost or doubled";
    "vfork" "process trees" PLAIN, [], Fate::Carried, "children made by vfork without pause, each another program at once";
    "pty" "terminals" PLAIN, [], Fate::Refused("pt"), "both ends of a pseudo terminal";
    "netlink" "netlink" PLAIN, [], Fate::Carried, "bound to a port and a group, nothing waiting";
    "netlink_waiting" "netlink" Criu::No("criu: netlink: the socket has data to read"), [], Fate::Refused("netlink"), "an answer that waits to be read";
    "io_uring" "io_uring" Criu::No("criu cannot dump a file of that type"), [], Fate::Refused("io_uring"), "a ring with a request in flight";
    "userfaultfd" "userfaultfd" Criu::No("criu cannot dump a file of that type"), [], Fate::Refused("userfaultfd"), "a program that serves its own faults";
    "aio" "asynchronous i/o" PLAIN, [], Fate::Refused("aio"), "a context and its ring";
    "packet_socket" "packet sockets" PLAIN, [Need::Root], Fate::Refused("packet"), "bound to loopback";
    "raw_socket" "raw sockets" PLAIN, [Need::Root], Fate::Refused("raw"), "a raw IPv4 socket";
    "fanotify" "fanotify" PLAIN, [Need::Root], Fate::Refused("fanotify"), "a mark on a directory";
    "bpf_map" "bpf" Criu::No("criu cannot dump a file of that type"), [Need::Root], Fate::Refused("bpf"), "an array with numbers";
    "traced_child" "traced processes" Criu::No("criu cannot seize a process that is traced"), [], Fate::Refused("traced"), "a debugger and its child";
    "pidfd" "pidfd" PLAIN, [], Fate::Refused("pidfd"), "of a child";
    "sysv_shm" "System V memory" Criu::No("criu needs an ipc namespace of the container's own for it"), [], Fate::Refused("SYSV"), "a removed segment, attached twice";
    "mqueue" "message queues" Criu::No("criu does not find the queue's mount in our tree"), [], Fate::Refused("mqueue"), "a message waiting in a queue without a name";
    "perf_event" "performance counters" Criu::No("criu cannot dump a file of that type"), [], Fate::Refused("perf_event"), "a software counter";
    "secret_memory" "secret memory" Criu::No("criu cannot dump a file of that type"), [], Fate::Refused("secretmem"), "memory of memfd_secret";
    "dead_leader" "threads" Criu::No("criu cannot dump a process whose first thread has ended"), [], Fate::Refused("leader"), "the first thread has ended, another goes on";
    "nested_namespace" "namespaces" Criu::No("criu: can't dump nested uts namespace"), [Need::Root], Fate::Refused("namespace"), "a child in a host-name namespace of its own";
];
