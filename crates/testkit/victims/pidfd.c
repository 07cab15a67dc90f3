/* A pidfd of a child. */
#include "refused.h"
#include <poll.h>

static pid_t child;

static void setup(void) {
    child = (pid_t)MUST(fork());
    if (child == 0)
        for (;;)
            pause();
    object = obtain("pidfd_open", syscall(SYS_pidfd_open, child, 0));
}

static void check(void) {
    struct pollfd p = {object, POLLIN, 0};
    EXPECT_EQ("poll of a living child", poll(&p, 1, 0), 0);
    MUST(syscall(SYS_pidfd_send_signal, object, SIGTERM, NULL, 0));
    EXPECT_EQ("poll of an ended child", poll(&p, 1, 5000), 1);
    int status;
    MUST(waitpid(child, &status, 0));
    EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM, "the child's status is %#x", status);
}

VICTIM(.setup = setup, .check = check, .harm = lose_object, .harms = 1)
