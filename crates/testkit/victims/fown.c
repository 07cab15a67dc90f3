// cflags: -pthread
// variants: full
/* Files that announce themselves by signal: to the process, to a process group, to a child, in the full variant to a
 * thread; with a signal of their own that says which descriptor. */
#include "talk.h"
#include <poll.h>
#include <sys/socket.h>

enum { PROCESS, THREAD, GROUP, CHILD, PLAIN, COUNT };
static int ends[COUNT][2], signals[COUNT];
static struct f_owner_ex owners[COUNT];
static pid_t child;
static pthread_t thread UNUSED;
static _Atomic pid_t thread_id;
static _Atomic int thread_got, thread_fd;

UNUSED static void *thread_main(void *unused) {
    (void)unused;
    sigset_t set;
    siginfo_t info;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 1);
    thread_id = (pid_t)syscall(SYS_gettid);
    while (sigwaitinfo(&set, &info) == -1)
        EXPECT(errno == EINTR, "sigwaitinfo: %s", strerror(errno));
    thread_fd = info.si_fd;
    atomic_store(&thread_got, 1);
    return NULL;
}

static void child_main(void) {
    sigset_t set;
    siginfo_t info;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 3);
    atomic_store(&talk->up, 1);
    talk_wait(1);
    struct timespec limit = {10, 0};
    int got;
    while ((got = sigtimedwait(&set, &info, &limit)) == -1 && errno == EINTR)
        ;
    EXPECT(got == SIGRTMIN + 3, "child: no signal: %s", strerror(errno));
    EXPECT_EQ("child: descriptor", info.si_fd, ends[CHILD][0]);
    _exit(0);
}

static void own(int n, int type, pid_t pid, int signal) {
    struct f_owner_ex owner = {type, pid};
    MUST(fcntl(ends[n][0], F_SETOWN_EX, &owner));
    if (signal)
        MUST(fcntl(ends[n][0], F_SETSIG, signal));
    MUST(fcntl(ends[n][0], F_SETFL, O_NONBLOCK | O_ASYNC));
    owners[n] = owner;
    signals[n] = signal;
}

static void setup(void) {
    talk_init();
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGIO);
    for (int i = 0; i < 6; i++)
        sigaddset(&set, SIGRTMIN + i);
    MUST(sigprocmask(SIG_BLOCK, &set, NULL));
    MUST(setpgid(0, 0) == -1 && errno != EPERM ? -1 : 0);
    MUST(pipe(ends[PROCESS]));
    for (int n = THREAD; n < COUNT; n++)
        MUST(socketpair(AF_UNIX, n == CHILD ? SOCK_DGRAM : SOCK_STREAM, 0, ends[n]));
    if (FULL) {
        MUST0(pthread_create(&thread, NULL, thread_main, NULL));
        while (!thread_id)
            sleep_ns(1000000);
    }
    child = (pid_t)MUST(fork());
    if (child == 0)
        child_main();
    await_flag("child", &talk->up, 1);
    own(PROCESS, F_OWNER_PID, getpid(), SIGRTMIN);
    if (FULL) /* criu sets owners before there are threads */
        own(THREAD, F_OWNER_TID, thread_id, SIGRTMIN + 1);
    else
        own(THREAD, F_OWNER_PID, getpid(), SIGRTMIN + 1);
    own(GROUP, F_OWNER_PGRP, getpgrp(), SIGRTMIN + 2);
    own(CHILD, F_OWNER_PID, child, SIGRTMIN + 3);
    own(PLAIN, F_OWNER_PID, getpid(), 0);
}

static void expect_signal(int n, int wanted) {
    sigset_t set;
    siginfo_t info;
    struct timespec limit = {10, 0};
    sigemptyset(&set);
    sigaddset(&set, wanted);
    EXPECT(write(ends[n][1], "x", 1) == 1, "write: %s", strerror(errno));
    int got;
    while ((got = sigtimedwait(&set, &info, &limit)) == -1 && errno == EINTR)
        ;
    EXPECT(got == wanted, "file %d: no signal %d: %s", n, wanted, strerror(errno));
    if (wanted != SIGIO) {
        EXPECT_EQ("descriptor", info.si_fd, ends[n][0]);
        EXPECT(info.si_band & POLLIN, "band %lx", (long)info.si_band);
    }
}

static void check(void) {
    for (int n = 0; n < COUNT; n++) {
        struct f_owner_ex now;
        char text[64];
        MUST(fcntl(ends[n][0], F_GETOWN_EX, &now));
        snprintf(text, sizeof text, "owner of file %d", n);
        EXPECT_EQ(text, now.pid, owners[n].pid);
        EXPECT_EQ("kind of owner", now.type, owners[n].type);
        EXPECT_EQ("signal", MUST(fcntl(ends[n][0], F_GETSIG)), signals[n]);
        EXPECT(fcntl(ends[n][0], F_GETFL) & O_ASYNC, "file %d announces nothing", n);
        MUST(fcntl(ends[n][1], F_GETOWN_EX, &now));
        EXPECT_EQ("owner of the other end", now.pid, 0);
    }
    sigset_t pending;
    MUST(sigpending(&pending));
    for (int i = 0; i < 4; i++)
        EXPECT(!sigismember(&pending, SIGRTMIN + i), "signal %d came by itself", i);
    expect_signal(PROCESS, SIGRTMIN);
    expect_signal(GROUP, SIGRTMIN + 2);
    expect_signal(PLAIN, SIGIO);
    if (FULL) {
        EXPECT(write(ends[THREAD][1], "x", 1) == 1, "write: %s", strerror(errno));
        await_flag("thread", &thread_got, 1);
        EXPECT_EQ("descriptor", thread_fd, ends[THREAD][0]);
        MUST0(pthread_join(thread, NULL));
    } else {
        expect_signal(THREAD, SIGRTMIN + 1);
    }
    EXPECT(write(ends[CHILD][1], "x", 1) == 1, "write: %s", strerror(errno));
    atomic_store(&talk->stage, 1);
    reap_ok("child", child);
}

static void harm(int n) {
    struct f_owner_ex nobody = {F_OWNER_PID, 0};
    switch (n) {
    case 0: MUST(fcntl(ends[PROCESS][0], F_SETOWN_EX, &nobody)); break;
    case 1: MUST(fcntl(ends[THREAD][0], F_SETSIG, SIGRTMIN)); break;
    case 2: MUST(fcntl(ends[GROUP][0], F_SETFL, O_NONBLOCK)); break;
    case 3: MUST(fcntl(ends[CHILD][0], F_SETOWN, getpid())); break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 4)
