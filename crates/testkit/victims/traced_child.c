/* A debugger and the child it traces, held at a stop. */
#include "refused.h"
#include <sys/ptrace.h>

static pid_t child;

static void setup(void) {
    child = (pid_t)MUST(fork());
    if (child == 0) {
        MUST(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
        raise(SIGSTOP);
        _exit(33);
    }
    int status;
    MUST(waitpid(child, &status, 0));
    EXPECT(WIFSTOPPED(status), "the child did not stop: %#x", status);
}

static void check(void) {
    int status;
    EXPECT(ptrace(PTRACE_PEEKUSER, child, 0, NULL) != -1 || errno == 0, "the child is not traced: %s", strerror(errno));
    MUST(ptrace(PTRACE_CONT, child, NULL, NULL));
    MUST(waitpid(child, &status, 0));
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 33, "the child's status is %#x", status);
}

static void harm(int n) {
    (void)n;
    MUST(ptrace(PTRACE_DETACH, child, NULL, NULL));
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 1)
