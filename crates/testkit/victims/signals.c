// cflags: -pthread
// variants: static full
/* Everything a process keeps about signals: the action of each of the 64 (handler, flags, restorer, mask), the masks and
 * alternate stacks of two threads, and what is pending for the process and for each thread, in order, every byte of their
 * siginfo. After `go` the pending ones are taken with rt_sigtimedwait and delivered to handlers. */
#include "victim.h"

struct kernel_action {
    void *handler;
    unsigned long flags;
    void *restorer;
    uint64_t mask;
};

#ifndef SA_RESTORER
#define SA_RESTORER 0x04000000
#endif
#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif

static struct kernel_action before[65];
static uint64_t main_mask, thread_mask;
static pthread_t thread;
static _Atomic pid_t thread_tid;
static _Atomic int thread_ready, go, thread_done;
static char main_stack[65536], thread_stack[65536];
static _Atomic int handled;
static int handled_value;
static bool handled_on_stack;
static siginfo_t sent_process[16], sent_thread[16], sent_main[4];
static int n_process, n_thread, n_main;
static int harmed = -1;

static uint64_t bit(int signal) { return 1ull << (signal - 1); }

static long raw_action(int signal, const struct kernel_action *new, struct kernel_action *old) {
    return syscall(SYS_rt_sigaction, signal, new, old, 8);
}

static uint64_t raw_mask(int how, const uint64_t *set) {
    uint64_t old;
    MUST(syscall(SYS_rt_sigprocmask, how, set, &old, 8));
    return old;
}

static void on_value(int signal, siginfo_t *info, void *context) {
    char here;
    (void)signal;
    (void)context;
    handled_value = info->si_value.sival_int;
    handled_on_stack = &here > main_stack && &here < main_stack + sizeof main_stack;
    atomic_fetch_add(&handled, 1);
}

static void on_plain(int signal) { (void)signal; }

static void queue(siginfo_t *keep, pid_t tid, int signal, int code, int value) {
    siginfo_t info;
    memset(&info, 0, sizeof info);
    info.si_signo = signal;
    info.si_code = code;
    info.si_errno = value & 7;
    info.si_pid = 4242;
    info.si_uid = 17;
    info.si_value.sival_ptr = (void *)((uintptr_t)value * 0x100000001ull);
    if (tid)
        MUST(syscall(SYS_rt_tgsigqueueinfo, getpid(), tid, signal, &info));
    else
        MUST(syscall(SYS_rt_sigqueueinfo, getpid(), signal, &info));
    *keep = info;
}

static void take(const char *what, const siginfo_t *expected) {
    siginfo_t got;
    memset(&got, 0xee, sizeof got);
    uint64_t set = bit(expected->si_signo);
    struct timespec zero = {0, 0};
    long answer = syscall(SYS_rt_sigtimedwait, &set, &got, &zero, 8);
    EXPECT(answer == expected->si_signo, "%s: signal %d is not pending: %ld %s", what, expected->si_signo, answer,
           strerror(errno));
    char name[80];
    snprintf(name, sizeof name, "%s: siginfo of signal %d", what, expected->si_signo);
    EXPECT_MEM(name, &got, expected, 128);
}

static uint64_t pending(void) {
    uint64_t set = 0;
    MUST(syscall(SYS_rt_sigpending, &set, 8));
    return set;
}

static void check_actions(void) {
    for (int s = 1; s <= 64; s++) {
        struct kernel_action now;
        MUST(raw_action(s, NULL, &now));
        EXPECT(now.handler == before[s].handler, "handler of signal %d: expected %p, got %p", s, before[s].handler,
               now.handler);
        EXPECT(now.flags == before[s].flags, "flags of signal %d: expected %#lx, got %#lx", s, before[s].flags,
               now.flags);
        EXPECT(now.restorer == before[s].restorer, "restorer of signal %d: expected %p, got %p", s, before[s].restorer,
               now.restorer);
        EXPECT(now.mask == before[s].mask, "mask of signal %d: expected %#llx, got %#llx", s,
               (unsigned long long)before[s].mask, (unsigned long long)now.mask);
    }
}

static void *run(void *unused) {
    (void)unused;
    stack_t stack = {.ss_sp = thread_stack, .ss_size = sizeof thread_stack, .ss_flags = (int)SS_AUTODISARM};
    MUST(sigaltstack(&stack, NULL));
    thread_mask = bit(SIGHUP) | bit(SIGUSR1) | bit(SIGUSR2) | bit(SIGTERM) | bit(34) | bit(35) | bit(36) | bit(37) |
                  bit(40) | bit(64);
    raw_mask(SIG_SETMASK, &thread_mask);
    thread_tid = (pid_t)syscall(SYS_gettid);
    atomic_store(&thread_ready, 1);
    await_flag("second thread's queue", &thread_ready, 2);
    while (!atomic_load(&go))
        sleep_ns(2000000);

    if (harmed == 5)
        sigaltstack(&(stack_t){.ss_flags = SS_DISABLE}, NULL);
    EXPECT_EQ("mask of the second thread", raw_mask(SIG_BLOCK, NULL), thread_mask);
    stack_t now;
    MUST(sigaltstack(NULL, &now));
    EXPECT(now.ss_sp == thread_stack && now.ss_size == sizeof thread_stack, "second thread's alternate stack changed");
    EXPECT_EQ("second thread's alternate stack flags", (unsigned)now.ss_flags, SS_AUTODISARM);
    if (harmed == 6) {
        uint64_t set = bit(40);
        struct timespec zero = {0, 0};
        syscall(SYS_rt_sigtimedwait, &set, NULL, &zero, 8);
    }
    /* a thread's own queue comes first, then the process's */
    for (int i = 0; i < n_thread; i++)
        take("second thread", &sent_thread[i]);
    atomic_store(&thread_done, 1);
    return NULL;
}

static void setup(void) {
    for (int s = 1; s <= 64; s++) {
        if (s == SIGKILL || s == SIGSTOP || s == 32 || s == 33 || s == SIGSEGV || s == SIGBUS || s == SIGILL ||
            s == SIGFPE)
            continue;
        /* criu's own traps in the process reset an ignored or blocked one to its default */
        if (s == SIGTRAP && !FULL)
            continue;
        struct sigaction action;
        memset(&action, 0, sizeof action);
        sigemptyset(&action.sa_mask);
        switch (s % 5) {
        case 0: action.sa_handler = SIG_IGN; break;
        case 1: action.sa_handler = on_plain; action.sa_flags = SA_RESTART; break;
        case 2:
            action.sa_sigaction = on_value;
            action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
            sigaddset(&action.sa_mask, 1 + s % 31);
            break;
        case 3: continue; /* default */
        case 4:
            action.sa_sigaction = on_value;
            action.sa_flags = SA_SIGINFO | SA_RESETHAND | (s == SIGCHLD ? SA_NOCLDSTOP : 0);
            sigfillset(&action.sa_mask);
            break;
        }
        MUST(sigaction(s, &action, NULL));
    }
    /* default with flags, and ignored with flags: both are kept by the kernel */
    struct kernel_action odd = {SIG_DFL, SA_RESTART | SA_NOCLDWAIT, NULL, 0x5500};
    MUST(raw_action(SIGWINCH, &odd, NULL));
    odd = (struct kernel_action){SIG_IGN, SA_ONSTACK, NULL, 0xaa00};
    MUST(raw_action(SIGURG, &odd, NULL));

    stack_t stack = {.ss_sp = main_stack, .ss_size = sizeof main_stack, .ss_flags = 0};
    MUST(sigaltstack(&stack, NULL));
    main_mask = bit(SIGHUP) | bit(SIGUSR1) | bit(SIGUSR2) | bit(SIGTERM) | bit(SIGCHLD) | bit(34) | bit(35) | bit(36) |
                bit(37) | bit(40) | bit(64);
    raw_mask(SIG_SETMASK, &main_mask);
    MUST0(pthread_create(&thread, NULL, run, NULL));
    await_flag("second thread", &thread_ready, 1);
    /* after the thread: libc sets actions of its own for it */
    for (int s = 1; s <= 64; s++)
        MUST(raw_action(s, NULL, &before[s]));

    /* process-directed: real-time ones queue in order, number by number; plain ones collapse */
    for (int i = 0; i < 5; i++)
        queue(&sent_process[n_process++], 0, 35, SI_QUEUE, 100 + i);
    queue(&sent_process[n_process++], 0, 36, SI_MESGQ, 7);
    queue(&sent_process[n_process++], 0, 37, SI_QUEUE, 8);
    queue(&sent_process[n_process++], 0, SIGUSR1, SI_QUEUE, 55);
    siginfo_t lost;
    queue(&lost, 0, SIGUSR1, SI_QUEUE, 56);
    MUST(kill(getpid(), SIGHUP)); /* SI_USER */
    memset(&sent_process[n_process], 0, sizeof(siginfo_t));
    sent_process[n_process].si_signo = SIGHUP;
    sent_process[n_process].si_code = SI_USER;
    sent_process[n_process].si_pid = getpid();
    sent_process[n_process].si_uid = getuid();
    n_process++;
    /* directed at the main thread, from the kernel's own codes too */
    queue(&sent_main[n_main++], (pid_t)syscall(SYS_gettid), SIGCHLD, CLD_EXITED, 3);
    queue(&sent_main[n_main++], (pid_t)syscall(SYS_gettid), 64, SI_QUEUE, 64);
    /* directed at the second thread */
    for (int i = 0; i < 3; i++)
        queue(&sent_thread[n_thread++], thread_tid, 40, SI_QUEUE, 200 + i);
    queue(&sent_thread[n_thread++], thread_tid, 34, SI_ASYNCIO, 9);
    MUST(syscall(SYS_tgkill, getpid(), thread_tid, SIGTERM));
    memset(&sent_thread[n_thread], 0, sizeof(siginfo_t));
    sent_thread[n_thread].si_signo = SIGTERM;
    sent_thread[n_thread].si_code = SI_TKILL;
    sent_thread[n_thread].si_pid = getpid();
    sent_thread[n_thread].si_uid = getuid();
    n_thread++;
    atomic_store(&thread_ready, 2);
}

static void check(void) {
    EXPECT_EQ("mask of the main thread", raw_mask(SIG_BLOCK, NULL), main_mask);
    check_actions();
    stack_t now;
    MUST(sigaltstack(NULL, &now));
    EXPECT(now.ss_sp == main_stack && now.ss_size == sizeof main_stack && now.ss_flags == 0,
           "alternate stack: expected %p %zu 0, got %p %zu %#x", (void *)main_stack, sizeof main_stack, now.ss_sp,
           now.ss_size, now.ss_flags);
    EXPECT_EQ("signals pending", pending(),
              bit(35) | bit(36) | bit(37) | bit(SIGUSR1) | bit(SIGHUP) | bit(SIGCHLD) | bit(64));
    atomic_store(&go, 1);
    await_flag("second thread", &thread_done, 1);
    MUST0(pthread_join(thread, NULL));
    for (int i = 0; i < n_main; i++)
        take("main thread", &sent_main[i]);
    for (int i = 0; i < n_process; i++) {
        if (sent_process[i].si_signo == 37)
            continue; /* left for its handler */
        take("process", &sent_process[i]);
    }
    EXPECT_EQ("signals left pending", pending(), bit(37));
    /* 37 % 5 == 2: siginfo, on the alternate stack */
    EXPECT_EQ("handlers run", atomic_load(&handled), 0);
    uint64_t set = bit(37);
    raw_mask(SIG_UNBLOCK, &set);
    EXPECT_EQ("handlers run", atomic_load(&handled), 1);
    EXPECT_EQ("value in the handler", handled_value, 8);
    EXPECT(handled_on_stack, "the handler did not run on the alternate stack");
    EXPECT_EQ("signals left pending", pending(), 0);
}

static void harm(int n) {
    harmed = n;
    struct timespec zero = {0, 0};
    uint64_t set;
    switch (n) {
    case 0: signal(SIGINT, SIG_IGN); break;
    case 1: set = bit(SIGINT); raw_mask(SIG_BLOCK, &set); break;
    case 2: sigaltstack(&(stack_t){.ss_flags = SS_DISABLE}, NULL); break;
    case 3: set = bit(35); syscall(SYS_rt_sigtimedwait, &set, NULL, &zero, 8); break;
    case 4: kill(getpid(), SIGTERM); break;
    case 7: { struct kernel_action a = before[50]; a.mask ^= 2; raw_action(51, &a, NULL); } break;
    case 8: { siginfo_t i; set = bit(36); syscall(SYS_rt_sigtimedwait, &set, &i, &zero, 8); i.si_value.sival_int++;
              syscall(SYS_rt_sigqueueinfo, getpid(), 36, &i); } break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 9)
