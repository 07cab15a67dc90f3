/* Two processes with one table of descriptors (CLONE_FILES): what one opens or closes the other sees. */
#include "talk.h"

static pid_t child;
static int kept, closed_later;
static char stack[65536];

static int child_main(void *unused) {
    (void)unused;
    atomic_store(&talk->up, 1);
    talk_wait(1);
    char byte = 0;
    EXPECT_EQ("child: position", lseek(kept, 0, SEEK_CUR), 2);
    int opened = (int)MUST(open("b", O_RDWR | O_CREAT, 0600));
    EXPECT_EQ("child: read of what the parent opened", pread((int)talk->values[0], &byte, 1, 0), 1);
    EXPECT_EQ("child: byte", byte, 'a');
    close(closed_later);
    talk->values[1] = opened;
    atomic_store(&talk->done, 1);
    _exit(0);
}

static void setup(void) {
    talk_init();
    kept = (int)MUST(open("a", O_RDWR | O_CREAT, 0600));
    EXPECT_EQ("write", write(kept, "abc", 3), 3);
    MUST(lseek(kept, 2, SEEK_SET));
    closed_later = (int)MUST(dup(kept));
    child = (pid_t)MUST(clone(child_main, stack + sizeof stack, CLONE_FILES | SIGCHLD, NULL));
    await_flag("child", &talk->up, 1);
}

static void check(void) {
    talk->values[0] = MUST(open("a", O_RDONLY));
    atomic_store(&talk->stage, 1);
    await_flag("child", &talk->done, 1);
    EXPECT_ERRNO(fcntl(closed_later, F_GETFD), EBADF);
    EXPECT_EQ("write to what the child opened", write((int)talk->values[1], "x", 1), 1);
    reap_ok("child", child);
}

static void harm(int n) {
    if (n == 0)
        MUST(unshare(CLONE_FILES));
    if (n == 1)
        lseek(kept, 0, SEEK_SET);
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 2)
