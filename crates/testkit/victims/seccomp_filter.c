// cflags: -pthread
/* Seccomp filters: two of the whole process (one spread over its threads afterwards with TSYNC), one more of a single
 * thread; answers by errno, by signal, by argument; how many each thread has and that all still hold. */
#include "filters.h"
#include <sys/utsname.h>

static pthread_t thread;
static _Atomic pid_t thread_tid;
static _Atomic int stage, thread_stage;
static volatile int trapped;

static const struct sock_filter deny[] = {
    LOAD(arch), IF_EQUAL(AUDIT_ARCH_X86_64, 5), LOAD(nr), IF_EQUAL(SYS_uname, 1), RETURN(SECCOMP_RET_ERRNO | 77),
    IF_EQUAL(SYS_sysinfo, 1), RETURN(SECCOMP_RET_TRAP | 5), RETURN(SECCOMP_RET_ALLOW),
};
/* by argument: getpriority(0, 4242) */
static const struct sock_filter by_argument[] = {
    LOAD(nr), IF_EQUAL(SYS_getpriority, 3), LOAD(args[1]), IF_EQUAL(4242, 1), RETURN(SECCOMP_RET_ERRNO | 78),
    RETURN(SECCOMP_RET_ALLOW),
};
static const struct sock_filter of_thread[] = {
    LOAD(nr), IF_EQUAL(SYS_getpgid, 1), RETURN(SECCOMP_RET_ERRNO | 79), RETURN(SECCOMP_RET_ALLOW),
};
#define COUNT(array) (sizeof(array) / sizeof *(array))

static void on_trap(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)context;
    trapped = info->si_errno * 1000 + info->si_syscall;
}

static void check_common(const char *who, int filters) {
    struct utsname name;
    char text[64];
    snprintf(text, sizeof text, "%s: seccomp mode", who);
    EXPECT_EQ(text, status_number((pid_t)syscall(SYS_gettid), "Seccomp:"), 2);
    snprintf(text, sizeof text, "%s: filters", who);
    EXPECT_EQ(text, status_number((pid_t)syscall(SYS_gettid), "Seccomp_filters:"), filters);
    EXPECT_ERRNO(syscall(SYS_uname, &name), 77);
    EXPECT_ERRNO(syscall(SYS_getpriority, 0, 4242), 78);
    EXPECT(syscall(SYS_getpriority, 0, 0) > 0, "%s: getpriority of itself is denied", who);
    trapped = 0;
    long space[16];
    syscall(SYS_sysinfo, space);
    EXPECT_EQ("trap's data and system call", trapped, 5000 + SYS_sysinfo);
    EXPECT_EQ("no_new_privs", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
}

static void *run(void *unused) {
    (void)unused;
    thread_tid = (pid_t)syscall(SYS_gettid);
    atomic_store(&thread_stage, 1);
    await_flag("main thread", &stage, 1);
    MUST(filter_install(of_thread, COUNT(of_thread), 0));
    atomic_store(&thread_stage, 2);
    while (atomic_load(&stage) < 2)
        sleep_ns(2000000);
    check_common("thread", 3);
    EXPECT_ERRNO(syscall(SYS_getpgid, 0), 79);
    atomic_store(&thread_stage, 3);
    return NULL;
}

static void setup(void) {
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    MUST(sigaction(SIGSYS, &action, NULL));
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST0(pthread_create(&thread, NULL, run, NULL));
    await_flag("thread", &thread_stage, 1);
    MUST(filter_install(deny, COUNT(deny), SECCOMP_FILTER_FLAG_TSYNC));
    MUST(filter_install(by_argument, COUNT(by_argument), SECCOMP_FILTER_FLAG_TSYNC));
    atomic_store(&stage, 1);
    await_flag("thread", &thread_stage, 2);
}

static void check(void) {
    check_common("main thread", 2);
    EXPECT(syscall(SYS_getpgid, 0) > 0, "the thread's filter holds for the main thread");
    atomic_store(&stage, 2);
    await_flag("thread", &thread_stage, 3);
    MUST0(pthread_join(thread, NULL));
    /* one more may still be put on top */
    MUST(filter_install(of_thread, COUNT(of_thread), 0));
    EXPECT_ERRNO(syscall(SYS_getpgid, 0), 79);
}

/* No program can take a filter off; one too many, or on the wrong thread, is noticed the same way. */
static void harm(int n) {
    if (n == 0)
        MUST(filter_install(by_argument, COUNT(by_argument), 0));
    if (n == 1)
        MUST(filter_install(of_thread, COUNT(of_thread), 0));
    if (n == 2)
        signal(SIGSYS, SIG_IGN), trapped = 0;
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 2)
