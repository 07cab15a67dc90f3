/* A filter that kills the process on every system call but the few this program makes: whoever runs another one inside
 * it, to look at it or to put it back, ends it. */
#include "filters.h"

static const struct sock_filter allow[] = {
    LOAD(arch), IF_EQUAL(AUDIT_ARCH_X86_64, 29), LOAD(nr),
    IF_EQUAL(SYS_read, 1), RETURN(SECCOMP_RET_ALLOW), IF_EQUAL(SYS_write, 1), RETURN(SECCOMP_RET_ALLOW),
    IF_EQUAL(SYS_openat, 1), RETURN(SECCOMP_RET_ALLOW), IF_EQUAL(SYS_close, 1), RETURN(SECCOMP_RET_ALLOW),
    IF_EQUAL(SYS_access, 1), RETURN(SECCOMP_RET_ALLOW), IF_EQUAL(SYS_clock_nanosleep, 1), RETURN(SECCOMP_RET_ALLOW),
    IF_EQUAL(SYS_link, 1), RETURN(SECCOMP_RET_ALLOW), IF_EQUAL(SYS_unlink, 1), RETURN(SECCOMP_RET_ALLOW),
    IF_EQUAL(SYS_gettid, 1), RETURN(SECCOMP_RET_ALLOW), IF_EQUAL(SYS_getpid, 1), RETURN(SECCOMP_RET_ALLOW),
    IF_EQUAL(SYS_fcntl, 1), RETURN(SECCOMP_RET_ALLOW), IF_EQUAL(SYS_exit_group, 1), RETURN(SECCOMP_RET_ALLOW),
    IF_EQUAL(SYS_restart_syscall, 1), RETURN(SECCOMP_RET_ALLOW), IF_EQUAL(SYS_rt_sigreturn, 1), RETURN(SECCOMP_RET_ALLOW),
    RETURN(SECCOMP_RET_KILL_PROCESS),
};

static void setup(void) {
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(filter_install(allow, sizeof allow / sizeof *allow, 0));
}

static void check(void) {
    EXPECT_EQ("seccomp mode", status_number(getpid(), "Seccomp:"), 2);
    EXPECT_EQ("filters", status_number(getpid(), "Seccomp_filters:"), 1);
}

static void harm(int n) {
    (void)n;
    fail("as asked"); /* a forbidden call ends it without a verdict: the runner's tests want one */
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 1)
