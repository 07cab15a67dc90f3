/* Two processes with one address space (CLONE_VM without CLONE_THREAD, as vfork and some runtimes make them). */
#include "victim.h"

static pid_t child;
static char stack[65536];
static _Atomic int up, stage, done;
static volatile long from_parent, from_child;

static int child_main(void *unused) {
    (void)unused;
    atomic_store(&up, 1);
    while (!atomic_load(&stage))
        sleep_ns(2000000);
    from_child = from_parent * 2;
    atomic_store(&done, 1);
    _exit(0);
}

static void setup(void) {
    child = (pid_t)MUST(clone(child_main, stack + sizeof stack, CLONE_VM | SIGCHLD, NULL));
    await_flag("child", &up, 1);
}

static void check(void) {
    from_parent = 21;
    atomic_store(&stage, 1);
    await_flag("child", &done, 1);
    EXPECT_EQ("what the child computed in shared memory", from_child, 42);
    reap_ok("child", child);
}

static void harm(int n) {
    (void)n;
    kill(child, SIGKILL);
    done = 1;
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 1)
