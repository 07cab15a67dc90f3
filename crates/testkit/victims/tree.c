// variants: full
/* A tree of processes: sessions, process groups with leaders alive, grandchildren, orphans adopted by a subreaper, in the
 * order of their birth; every one compares its ids, signals to a group reach its members only. In the full variant a
 * group whose leader is gone, a session whose leader is gone, and a child that sends another signal when it ends. */
#include "talk.h"

enum { LEADER, SESSION, IN_SESSION, GROUP_IN_SESSION, DEEP, GROUP, IN_GROUP, ORPHAN, LOST_GROUP, LOST_SESSION, OTHER_SIGNAL, PROCESSES };
struct ids {
    _Atomic pid_t pid, parent, session, group;
};
static struct shared {
    struct ids before[PROCESSES];
    _Atomic int up, go, checked[PROCESSES], told[PROCESSES];
} *shared;
static int self_index;
static pid_t other_signal_child;
static volatile sig_atomic_t other_signal_seen;

static void on_usr1(int signal) {
    (void)signal;
    shared->told[self_index]++;
}

static void on_usr2(int signal) {
    (void)signal;
    other_signal_seen++;
}

static void read_ids(struct ids *to) {
    to->pid = getpid();
    to->parent = getppid();
    to->session = getsid(0);
    to->group = getpgid(0);
}

static void check_own(void) {
    struct ids now;
    char text[64];
    read_ids(&now);
    const struct ids *was = &shared->before[self_index];
    snprintf(text, sizeof text, "process %d: pid", self_index);
    EXPECT_EQ(text, now.pid, was->pid);
    snprintf(text, sizeof text, "process %d: parent", self_index);
    if (self_index != LEADER) /* the leader's parent is whoever restored it */
        EXPECT_EQ(text, now.parent, was->parent);
    snprintf(text, sizeof text, "process %d: session", self_index);
    EXPECT_EQ(text, now.session, was->session);
    snprintf(text, sizeof text, "process %d: group", self_index);
    EXPECT_EQ(text, now.group, was->group);
}

/* What every process but the leader does, once its ids are as they shall be: says so, waits, compares, ends. */
static void live(int index) {
    self_index = index;
    read_ids(&shared->before[index]);
    atomic_fetch_add(&shared->up, 1);
    while (!atomic_load(&shared->go))
        sleep_ns(3000000);
    check_own();
    atomic_store(&shared->checked[index], 1);
    while (atomic_load(&shared->go) < 2)
        sleep_ns(3000000);
}

static pid_t spawn(int index, void (*before_live)(void), void (*after_live)(void)) {
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        if (before_live)
            before_live();
        live(index);
        if (after_live)
            after_live();
        _exit(index);
    }
    return pid;
}

static void own_group(void) { MUST(setpgid(0, 0)); }

static void reap_all(void) {
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, 0)) > 0 || errno == EINTR)
        if (pid > 0)
            EXPECT(WIFEXITED(status) && WEXITSTATUS(status) >= 2, "child %d: status %#x", pid, status);
}

static void become_session(void) {
    MUST(setsid());
    spawn(IN_SESSION, NULL, NULL);
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        own_group();
        spawn(DEEP, NULL, NULL);
        live(GROUP_IN_SESSION);
        reap_all();
        _exit(GROUP_IN_SESSION);
    }
}

static void become_group(void) {
    own_group();
    spawn(IN_GROUP, NULL, NULL);
}

/* Runs in a process between that ends at once: its child becomes the leader's. */
static void between(int index, void (*prepare)(void)) {
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        if (prepare)
            prepare();
        pid_t parent = getpid();
        if (MUST(fork()) == 0) {
            while (getppid() == parent)
                sleep_ns(1000000);
            live(index);
            _exit(index);
        }
        _exit(0);
    }
    reap_ok("process between", pid);
}

static void own_session(void) { MUST(setsid()); }

static void setup(void) {
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
    signal(SIGUSR1, on_usr1);
    signal(SIGUSR2, on_usr2);
    self_index = LEADER;
    read_ids(&shared->before[LEADER]);
    spawn(SESSION, become_session, reap_all);
    spawn(GROUP, become_group, reap_all);
    between(ORPHAN, NULL);
    int count = 7;
    if (FULL) {
        between(LOST_GROUP, own_group);
        between(LOST_SESSION, own_session);
        other_signal_child = (pid_t)MUST(syscall(SYS_clone, SIGUSR2, NULL, NULL, NULL, 0));
        if (other_signal_child == 0) {
            live(OTHER_SIGNAL);
            _exit(OTHER_SIGNAL);
        }
        count = 10;
    }
    await_flag("processes", &shared->up, count);
}

static void check(void) {
    int last = FULL ? PROCESSES : LOST_GROUP;
    check_own();
    atomic_store(&shared->go, 1);
    for (int i = 1; i < last; i++)
        await_flag("every process's check", &shared->checked[i], 1);
    MUST(kill(-shared->before[GROUP].pid, SIGUSR1));
    MUST(kill(-shared->before[GROUP_IN_SESSION].pid, SIGUSR1));
    for (int i = 0; i < 4; i++) {
        static const int members[] = {GROUP, IN_GROUP, GROUP_IN_SESSION, DEEP};
        await_flag("signal to a group", &shared->told[members[i]], 1);
    }
    for (int i = 1; i < last; i++)
        EXPECT_EQ("signals to a process", shared->told[i], i == GROUP || i == IN_GROUP || i == GROUP_IN_SESSION || i == DEEP);
    int value;
    MUST(prctl(PR_GET_CHILD_SUBREAPER, &value));
    EXPECT_EQ("subreaper", value, 1);
    atomic_store(&shared->go, 2);
    int status, children = 0;
    pid_t pid;
    while ((pid = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR) {
        if (pid <= 0)
            continue;
        children++;
        int index = -1;
        for (int i = 1; i < last; i++)
            if (shared->before[i].pid == pid)
                index = i;
        EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == index, "child %d (%d): status %#x", pid, index, status);
    }
    EXPECT_EQ("children of the leader", children, FULL ? 6 : 3);
    if (FULL)
        EXPECT_EQ("signals at the end of the child that sends SIGUSR2", other_signal_seen, 1);
}

static void harm(int n) {
    switch (n) {
    case 0: kill(shared->before[ORPHAN].pid, SIGKILL); shared->checked[ORPHAN] = 1; break;
    case 1: shared->before[IN_GROUP].group++; break;
    case 2: shared->before[DEEP].parent++; break;
    case 3: MUST(prctl(PR_SET_CHILD_SUBREAPER, 0)); break;
    case 4: shared->before[IN_SESSION].session++; break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 5)
