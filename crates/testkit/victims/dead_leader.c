// cflags: -pthread
/* A process whose first thread has ended: a zombie with a living thread behind it. */
#include "victim.h"

static pthread_t other;
static char **arguments;

/* The rest of the program runs in the second thread. */
static void *rest(void *unused) {
    (void)unused;
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", getpid());
    for (int i = 0;; i++) {
        slurp(path, text, sizeof text);
        if (strrchr(text, ')')[2] == 'Z')
            break;
        EXPECT(i < 5000, "the first thread does not end");
        sleep_ns(1000000);
    }
    touch_file("ready");
    wait_go();
    slurp(path, text, sizeof text);
    if (arguments[1] && strcmp(arguments[1], "--harm") == 0)
        text[0] = 0, strcpy(text, "0 () R");
    EXPECT(strrchr(text, ')')[2] == 'Z', "the first thread is back: %.40s", text);
    EXPECT(getpid() != (pid_t)syscall(SYS_gettid), "the second thread has become the first");
    verdict("ok\n");
    _exit(0);
}

static void setup(void) {
    arguments = victim_argv;
    MUST0(pthread_create(&other, NULL, rest, NULL));
    syscall(SYS_exit, 0);
}

static void nothing(void) {}
static void harm(int n) { (void)n; }

VICTIM(.setup = setup, .check = nothing, .harm = harm, .harms = 1)
