// variants: full
/* Children that have ended and were not waited for: exit codes, signals, one of another session, one that was the leader
 * of a group a living child is in; what waitid says of each, and the order.. */
#include "talk.h"

enum { ZERO, SEVEN, LAST, KILLED, TERMINATED, SESSION, GROUP, COUNT };
static pid_t pids[COUNT], member;
static siginfo_t before[COUNT];
/* criu keeps seven bits of an exit code */
static const int status_of[COUNT] = {0, 7, FULL ? 255 : 127, SIGKILL, SIGTERM, 3, 4};

static void child_main(int n) {
    signal(SIGTERM, SIG_DFL);
    switch (n) {
    case KILLED: raise(SIGKILL); break;
    case TERMINATED: raise(SIGTERM); break;
    case SESSION: setsid(); break;
    case GROUP: setpgid(0, 0); talk_wait(1); break;
    }
    _exit(status_of[n]);
}

static void setup(void) {
    talk_init();
    for (int i = 0; i < COUNT; i++) {
        pids[i] = (pid_t)MUST(fork());
        if (pids[i] == 0)
            child_main(i);
    }
    MUST(setpgid(pids[GROUP], pids[GROUP]));
    member = (pid_t)MUST(fork());
    if (member == 0) {
        talk_wait(2);
        _exit(99);
    }
    MUST(setpgid(member, pids[GROUP]));
    atomic_store(&talk->stage, 1);
    for (int i = 0; i < COUNT; i++)
        MUST(waitid(P_PID, (id_t)pids[i], &before[i], WEXITED | WNOWAIT));
}

static void check(void) {
    siginfo_t info;
    EXPECT_EQ("group of the living member", getpgid(member), pids[GROUP]);
    for (int i = 0; i < COUNT; i++) {
        char text[64], path[64];
        snprintf(path, sizeof path, "/proc/%d/stat", pids[i]);
        char stat[1024];
        slurp(path, stat, sizeof stat);
        EXPECT(strstr(stat, ") Z "), "child %d is no zombie: %.60s", i, stat);
        memset(&info, 0, sizeof info);
        MUST(waitid(P_PID, (id_t)pids[i], &info, WEXITED | WNOHANG));
        snprintf(text, sizeof text, "zombie %d: pid", i);
        EXPECT_EQ(text, info.si_pid, pids[i]);
        snprintf(text, sizeof text, "zombie %d: code", i);
        EXPECT_EQ(text, info.si_code, i == KILLED || i == TERMINATED ? CLD_KILLED : CLD_EXITED);
        snprintf(text, sizeof text, "zombie %d: status", i);
        EXPECT_EQ(text, info.si_status, status_of[i]);
        EXPECT_EQ("user of the zombie", info.si_uid, before[i].si_uid);
        EXPECT_ERRNO(kill(pids[i], 0), ESRCH);
    }
    EXPECT_EQ("others that have ended", waitid(P_ALL, 0, &info, WEXITED | WNOHANG), 0);
    atomic_store(&talk->stage, 2);
    int status;
    MUST(waitpid(member, &status, 0));
    EXPECT_EQ("exit of the living member", WEXITSTATUS(status), 99);
    EXPECT_ERRNO(waitpid(-1, &status, 0), ECHILD);
}

static void harm(int n) {
    if (n == 0)
        MUST(waitpid(pids[SEVEN], NULL, 0));
    if (n == 1)
        kill(member, SIGKILL), sleep_ns(10000000);
    if (n == 2)
        MUST(setpgid(member, 0));
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 3)
