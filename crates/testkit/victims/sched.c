// cflags: -pthread
// variants: full
/* Scheduling of threads: policies with priorities, nice values, reset-on-fork; in the full variant also the cpus a thread
 * may run on and its i/o priority. */
#include "victim.h"
#include <sys/resource.h>

struct raw_attr {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
    uint32_t util_min, util_max;
};

enum { THREADS = 7 };
static const struct { uint32_t policy; int nice; uint32_t priority; uint64_t flags; int ioprio; } wanted[THREADS] = {
    {SCHED_OTHER, 5, 0, 0, 2 << 13 | 6},
    {SCHED_BATCH, 11, 0, 0, 2 << 13 | 1},
    {SCHED_IDLE, 0, 0, 0, 3 << 13},
    {SCHED_FIFO, 0, 10, 0, 1 << 13 | 3},
    {SCHED_RR, 0, 3, 1 /* reset on fork */, 0},
    {SCHED_OTHER, -7, 0, 0, 0},
    {SCHED_OTHER, 19, 0, 1, 0},
};
static pthread_t threads[THREADS];
static _Atomic pid_t tids[THREADS];
static struct raw_attr before[THREADS];
static cpu_set_t cpus[THREADS];
static _Atomic int up, stop;

static void get(pid_t tid, struct raw_attr *attr) {
    memset(attr, 0, sizeof *attr);
    MUST(syscall(SYS_sched_getattr, tid, attr, sizeof *attr, 0));
}

static void *run(void *argument) {
    int n = (int)(intptr_t)argument;
    tids[n] = (pid_t)syscall(SYS_gettid);
    atomic_fetch_add(&up, 1);
    while (!atomic_load(&stop))
        sleep_ns(3000000);
    return NULL;
}

/* From outside: a thread that may run when nobody else will might take long to say that it is ready. */
static void schedule(int n) {
    struct raw_attr attr = {.size = 48, .policy = wanted[n].policy, .flags = wanted[n].flags, .nice = wanted[n].nice,
                            .priority = wanted[n].priority};
    if (FULL) {
        MUST(syscall(SYS_ioprio_set, 1, tids[n], wanted[n].ioprio));
        CPU_ZERO(&cpus[n]);
        CPU_SET(n % 2, &cpus[n]);
        MUST(sched_setaffinity(tids[n], sizeof cpus[n], &cpus[n]));
    }
    if (syscall(SYS_sched_setattr, tids[n], &attr, 0) == -1)
        skip("policy %u: %s", attr.policy, strerror(errno));
}

static void setup(void) {
    if (FULL && sysconf(_SC_NPROCESSORS_ONLN) < 2)
        skip("needs two cpus");
    for (int n = 0; n < THREADS; n++)
        MUST0(pthread_create(&threads[n], NULL, run, (void *)(intptr_t)n));
    await_flag("threads", &up, THREADS);
    for (int n = 0; n < THREADS; n++) {
        schedule(n);
        get(tids[n], &before[n]);
    }
}

static void check(void) {
    for (int n = 0; n < THREADS; n++) {
        struct raw_attr now;
        char text[64];
        get(tids[n], &now);
        snprintf(text, sizeof text, "thread %d: policy", n);
        EXPECT_EQ(text, now.policy, before[n].policy);
        snprintf(text, sizeof text, "thread %d: nice", n);
        EXPECT_EQ(text, now.nice, before[n].nice);
        snprintf(text, sizeof text, "thread %d: priority", n);
        EXPECT_EQ(text, now.priority, before[n].priority);
        snprintf(text, sizeof text, "thread %d: scheduling flags", n);
        if (FULL)
            EXPECT_EQ(text, now.flags, before[n].flags);
        if (FULL) {
            cpu_set_t set;
            MUST(sched_getaffinity(tids[n], sizeof set, &set));
            EXPECT(CPU_EQUAL(&set, &cpus[n]), "thread %d: may run on other cpus than before", n);
            snprintf(text, sizeof text, "thread %d: i/o priority", n);
            EXPECT_EQ(text, syscall(SYS_ioprio_get, 1, tids[n]), wanted[n].ioprio);
        }
    }
    EXPECT_EQ("nice of the process", getpriority(PRIO_PROCESS, 0), 0);
    atomic_store(&stop, 1);
    struct raw_attr usual = {.size = 48};
    for (int n = 0; n < THREADS; n++)
        syscall(SYS_sched_setattr, tids[n], &usual, 0);
    for (int n = 0; n < THREADS; n++)
        MUST0(pthread_join(threads[n], NULL));
}

static void harm(int n) {
    struct raw_attr attr;
    cpu_set_t all;
    switch (n) {
    case 0: setpriority(PRIO_PROCESS, (id_t)tids[0], 6); break;
    case 1: get(tids[1], &attr); attr.policy = SCHED_OTHER; MUST(syscall(SYS_sched_setattr, tids[1], &attr, 0)); break;
    case 2: get(tids[3], &attr); attr.priority = 11; MUST(syscall(SYS_sched_setattr, tids[3], &attr, 0)); break;
    case 3: CPU_ZERO(&all); CPU_SET(0, &all); CPU_SET(1, &all); MUST(sched_setaffinity(tids[2], sizeof all, &all)); break;
    case 4: MUST(syscall(SYS_ioprio_set, 1, tids[0], 2 << 13 | 7)); break;
    case 5: get(tids[6], &attr); attr.flags = 0; MUST(syscall(SYS_sched_setattr, tids[6], &attr, 0)); break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = FULL ? 6 : 3)
