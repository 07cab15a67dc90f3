/* A program that makes children by vfork(2) all the time, as shells do: each shares its parent's memory until it has
 * become another program, and the parent sleeps uninterruptibly that long. Every child must end well, once. */
#include "victim.h"

static int children, harmed;

static void one_child(void) {
    pid_t child = vfork();
    if (child == 0) {
        execl("/proc/self/exe", "child", "--harms", (char *)NULL);
        _exit(99);
    }
    MUST(child);
    reap_ok("child", child);
    children++;
}

static void setup(void) { one_child(); }

static void work(void) {
    while (!gone()) {
        one_child();
        sleep_ns(200000);
    }
}

static void check(void) {
    EXPECT(children > 0, "no child was made");
    errno = 0;
    EXPECT(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD, "a child is left");
    EXPECT_EQ("harmed", harmed, 0);
}

static void harm(int n) {
    (void)n;
    harmed = 1;
}

VICTIM(.setup = setup, .work = work, .check = check, .harm = harm, .harms = 1)
