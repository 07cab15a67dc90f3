// cflags: -pthread
// variants: full
/* Small attributes of a process and its threads: oom_score_adj, timer slack, signal at the parent's death, dumpable, child
 * subreaper, huge pages switched off; in the full variant personality, core dump filter, machine-check policy, keep-capabilities. */
#include "victim.h"
#include <sys/personality.h>

static _Atomic int up, stop, done;
static _Atomic pid_t tid;
static pthread_t thread;
static int harmed = -1;

static void *run(void *unused) {
    (void)unused;
    MUST(prctl(PR_SET_TIMERSLACK, 333333));
    MUST(prctl(PR_SET_PDEATHSIG, SIGUSR2));
    tid = (pid_t)syscall(SYS_gettid);
    atomic_store(&up, 1);
    while (!atomic_load(&stop))
        sleep_ns(3000000);
    if (FULL && harmed == 6)
        MUST(prctl(PR_SET_TIMERSLACK, 50000));
    int death = -1;
    MUST(prctl(PR_GET_PDEATHSIG, &death));
    if (FULL) {
        EXPECT_EQ("thread's timer slack", prctl(PR_GET_TIMERSLACK), 333333);
        EXPECT_EQ("thread's parent death signal", death, SIGUSR2);
    }
    atomic_store(&done, 1);
    return NULL;
}

static void write_text(const char *path, const char *text) {
    int fd = (int)MUST(open(path, O_WRONLY | O_CLOEXEC));
    EXPECT(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "write %s: %s", path, strerror(errno));
    close(fd);
}

static void expect_text(const char *path, const char *expected) {
    char text[256];
    slurp(path, text, sizeof text);
    EXPECT_STR(path, text, expected);
}

static void setup(void) {
    /* whoever restores this is its parent for a moment */
    signal(SIGUSR1, SIG_IGN);
    signal(SIGUSR2, SIG_IGN);
    write_text("/proc/self/oom_score_adj", "321");
    MUST(prctl(PR_SET_TIMERSLACK, 777777));
    MUST(prctl(PR_SET_PDEATHSIG, SIGUSR1));
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
    MUST(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
    MUST(prctl(PR_SET_DUMPABLE, 0));
    if (FULL) {
        MUST(personality(ADDR_NO_RANDOMIZE | SHORT_INODE));
        MUST(prctl(PR_SET_DUMPABLE, 1));
        write_text("/proc/self/coredump_filter", "0x7f");
        MUST(prctl(PR_SET_DUMPABLE, 0));
        MUST(prctl(PR_SET_KEEPCAPS, 1));
        MUST(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
    }
    MUST0(pthread_create(&thread, NULL, run, NULL));
    await_flag("thread", &up, 1);
}

static void check(void) {
    int value = -1;
    EXPECT_EQ("dumpable", prctl(PR_GET_DUMPABLE), 0);
    expect_text("/proc/self/oom_score_adj", "321\n");
    EXPECT_EQ("timer slack", prctl(PR_GET_TIMERSLACK), FULL ? 777777 : prctl(PR_GET_TIMERSLACK));
    MUST(prctl(PR_GET_PDEATHSIG, &value));
    EXPECT_EQ("parent death signal", value, SIGUSR1);
    MUST(prctl(PR_GET_CHILD_SUBREAPER, &value));
    EXPECT_EQ("child subreaper", value, 1);
    EXPECT_EQ("huge pages off", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), 1);
    if (FULL) {
        EXPECT_EQ("personality", personality(0xffffffff), ADDR_NO_RANDOMIZE | SHORT_INODE);
        MUST(prctl(PR_SET_DUMPABLE, 1));
        expect_text("/proc/self/coredump_filter", "0000007f\n");
        EXPECT_EQ("keep capabilities", prctl(PR_GET_KEEPCAPS), 1);
        EXPECT_EQ("machine-check policy", prctl(PR_MCE_KILL_GET, 0, 0, 0, 0), PR_MCE_KILL_EARLY);
    }
    atomic_store(&stop, 1);
    await_flag("thread", &done, 1);
    MUST0(pthread_join(thread, NULL));
}

static void harm(int n) {
    harmed = n;
    switch (n) {
    case 0: MUST(prctl(PR_SET_PDEATHSIG, 0)); break;
    case 1: MUST(prctl(PR_SET_CHILD_SUBREAPER, 0)); break;
    case 2: MUST(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0)); break;
    case 3: MUST(prctl(PR_SET_DUMPABLE, 1)); break;
    case 4: write_text("/proc/self/oom_score_adj", "400"); break;
    case 5: MUST(personality(0)); break;
    case 7: MUST(prctl(PR_SET_TIMERSLACK, 1)); break;
    case 8: MUST(prctl(PR_SET_KEEPCAPS, 0)); break;
    case 9: MUST(prctl(PR_MCE_KILL, PR_MCE_KILL_CLEAR, 0, 0, 0)); break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = FULL ? 10 : 5)
