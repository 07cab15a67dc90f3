/* Seccomp's strict mode: a child that may only read, write, return from signals and exit. It answers over pipes. */
#include "filters.h"

static int to_child[2], from_child[2];
static pid_t child;

static void child_main(void) {
    MUST(syscall(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0));
    unsigned long value = 0, sum = 0;
    if (syscall(SYS_write, from_child[1], "r", 1) != 1)
        syscall(SYS_exit, 2);
    while (syscall(SYS_read, to_child[0], &value, 8) == 8 && value) {
        sum += value;
        if (syscall(SYS_write, from_child[1], &sum, 8) != 8)
            syscall(SYS_exit, 3);
    }
    syscall(SYS_exit, 0);
}

static unsigned long ask(unsigned long value) {
    unsigned long answer = 0;
    EXPECT(write(to_child[1], &value, 8) == 8, "write: %s", strerror(errno));
    EXPECT(read(from_child[0], &answer, 8) == 8, "the strict child does not answer");
    return answer;
}

static void setup(void) {
    MUST(pipe2(to_child, O_CLOEXEC));
    MUST(pipe2(from_child, O_CLOEXEC));
    child = (pid_t)MUST(fork());
    if (child == 0)
        child_main();
    signal(SIGPIPE, SIG_IGN);
    close(to_child[0]);
    close(from_child[1]);
    char byte;
    EXPECT(read(from_child[0], &byte, 1) == 1, "the strict child does not start");
    EXPECT_EQ("sum", ask(5), 5);
}

static void check(void) {
    char path[64], text[8192];
    snprintf(path, sizeof path, "/proc/%d/status", child);
    slurp(path, text, sizeof text);
    EXPECT(strstr(text, "Seccomp:\t1"), "the child is not in strict mode any more");
    EXPECT_EQ("sum", ask(7), 12);
    EXPECT_EQ("sum", ask(100), 112);
    unsigned long zero = 0;
    EXPECT(write(to_child[1], &zero, 8) == 8, "write: %s", strerror(errno));
    reap_ok("strict child", child);
}

static void harm(int n) {
    if (n == 0)
        ask(1);
    if (n == 1)
        kill(child, SIGKILL), sleep_ns(10000000);
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 2)
