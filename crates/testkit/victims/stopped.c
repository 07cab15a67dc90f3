// cflags: -pthread
// variants: full
/* Stopped children: one whose stop was reported, one with two threads; they stay stopped until told, and go on then. In
 * the full variant one whose stop nobody has asked about yet. */
#include "talk.h"

enum { REPORTED, THREADED, UNREPORTED, COUNT };
static pid_t pids[COUNT];

static void *count(void *slot) {
    for (;;) {
        talk->values[(intptr_t)slot]++;
        sleep_ns(1000000);
    }
    return NULL;
}

static void child_main(int n) {
    if (n == THREADED) {
        pthread_t thread;
        MUST0(pthread_create(&thread, NULL, count, (void *)10));
    }
    atomic_fetch_add(&talk->up, 1);
    while (!atomic_load(&talk->stage)) {
        talk->values[n]++;
        sleep_ns(1000000);
    }
    _exit(0);
}

static char state(pid_t pid) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    slurp(path, text, sizeof text);
    return strrchr(text, ')')[2];
}

static void setup(void) {
    talk_init();
    for (int i = 0; i < (FULL ? COUNT : UNREPORTED); i++) {
        pids[i] = (pid_t)MUST(fork());
        if (pids[i] == 0)
            child_main(i);
    }
    await_flag("children", &talk->up, FULL ? 3 : 2);
    for (int i = 0; i < (FULL ? COUNT : UNREPORTED); i++) {
        int status;
        MUST(kill(pids[i], SIGSTOP));
        if (i != UNREPORTED)
            MUST(waitpid(pids[i], &status, WUNTRACED));
        while (state(pids[i]) != 'T')
            sleep_ns(1000000);
    }
}

static void check(void) {
    int status;
    siginfo_t info;
    long before[12];
    for (int i = 0; i < 12; i++)
        before[i] = talk->values[i];
    sleep_ns(20000000);
    for (int i = 0; i < 12; i++)
        EXPECT(talk->values[i] == before[i], "counter %d of a stopped process moved", i);
    for (int i = 0; i < (FULL ? COUNT : UNREPORTED); i++)
        EXPECT(state(pids[i]) == 'T', "child %d is not stopped but %c", i, state(pids[i]));
    if (FULL) {
        memset(&info, 0, sizeof info);
        MUST(waitid(P_PID, (id_t)pids[UNREPORTED], &info, WSTOPPED | WNOHANG));
        EXPECT_EQ("child whose stop was not reported", info.si_pid, pids[UNREPORTED]);
        EXPECT_EQ("its signal", info.si_status, SIGSTOP);
        memset(&info, 0, sizeof info);
        MUST(waitid(P_ALL, 0, &info, WSTOPPED | WNOHANG));
        EXPECT_EQ("child whose stop is reported twice", info.si_pid, 0);
    }
    for (int i = 0; i < (FULL ? COUNT : UNREPORTED); i++) {
        MUST(kill(pids[i], SIGCONT));
        MUST(waitpid(pids[i], &status, WCONTINUED));
        EXPECT(WIFCONTINUED(status), "child %d: status %#x", i, status);
        for (int t = 0; talk->values[i] == before[i]; t++) {
            EXPECT(t < 5000, "child %d does not go on", i);
            sleep_ns(1000000);
        }
    }
    for (int t = 0; talk->values[10] == before[10]; t++) {
        EXPECT(t < 5000, "second thread of a child does not go on");
        sleep_ns(1000000);
    }
    atomic_store(&talk->stage, 1);
    for (int i = 0; i < (FULL ? COUNT : UNREPORTED); i++)
        reap_ok("child", pids[i]);
}

static void harm(int n) {
    if (n == 0)
        kill(pids[REPORTED], SIGCONT);
    if (n == 1)
        kill(pids[THREADED], SIGKILL), sleep_ns(5000000);
    if (n == 2)
        waitpid(pids[UNREPORTED], NULL, WUNTRACED);
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = FULL ? 3 : 2)
