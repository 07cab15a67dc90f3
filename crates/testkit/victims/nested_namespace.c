/* A child in a host-name namespace of its own. */
#include "refused.h"
#include <sys/utsname.h>

static pid_t child;
static int to_child[2];

static void setup(void) {
    int up[2];
    char byte;
    MUST(pipe(to_child));
    MUST(pipe(up));
    child = (pid_t)MUST(fork());
    if (child == 0) {
        struct utsname name;
        obtain("unshare", unshare(CLONE_NEWUTS));
        MUST(sethostname("inside", 6));
        MUST(write(up[1], "u", 1));
        MUST(read(to_child[0], &byte, 1));
        MUST(uname(&name));
        EXPECT_STR("child's host name", name.nodename, "inside");
        _exit(0);
    }
    close(up[1]);
    if (read(up[0], &byte, 1) != 1)
        skip("the child got no namespace of its own");
    close(up[0]);
}

static void check(void) {
    struct utsname name;
    MUST(uname(&name));
    EXPECT(strcmp(name.nodename, "inside") != 0, "the child's host name is the parent's too");
    MUST(write(to_child[1], "g", 1));
    reap_ok("child", child);
}

static void harm(int n) {
    (void)n;
    kill(child, SIGKILL);
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 1)
