/* All sixteen resource limits, soft and hard, each with a number of its own where the program still works with it. */
#include "victim.h"
#include <sys/resource.h>

static const struct { int which; rlim_t soft, hard; } wanted[] = {
    {RLIMIT_CPU, 10001, 20001},      {RLIMIT_FSIZE, 1000003, 2000003},       {RLIMIT_DATA, 1u << 31, 1ul << 33},
    {RLIMIT_STACK, 4 << 20, 6 << 20}, {RLIMIT_CORE, 0, 12345},               {RLIMIT_NPROC, 3001, 3002},
    {RLIMIT_NOFILE, 301, 402},       {RLIMIT_MEMLOCK, 40960, 49152},         {RLIMIT_AS, 1ul << 40, 1ul << 41},
    {RLIMIT_LOCKS, 11, 12},          {RLIMIT_SIGPENDING, 501, 502},          {RLIMIT_MSGQUEUE, 8001, 8002},
    {RLIMIT_NICE, 0, 0},             {RLIMIT_RTPRIO, 0, 0},                  {RLIMIT_RTTIME, 900001, 900002},
    {RLIMIT_RSS, 777777, 888888},
};
enum { COUNT = sizeof wanted / sizeof *wanted };
static struct rlimit before[COUNT];

static void setup(void) {
    for (int i = 0; i < COUNT; i++) {
        struct rlimit limit;
        MUST(getrlimit(wanted[i].which, &limit));
        if (limit.rlim_max > wanted[i].hard)
            limit.rlim_max = wanted[i].hard;
        limit.rlim_cur = wanted[i].soft < limit.rlim_max ? wanted[i].soft : limit.rlim_max;
        MUST(setrlimit(wanted[i].which, &limit));
        MUST(getrlimit(wanted[i].which, &before[i]));
    }
}

static void check(void) {
    for (int i = 0; i < COUNT; i++) {
        struct rlimit now;
        char text[64];
        MUST(getrlimit(wanted[i].which, &now));
        snprintf(text, sizeof text, "soft limit %d", wanted[i].which);
        EXPECT_EQ(text, now.rlim_cur, before[i].rlim_cur);
        snprintf(text, sizeof text, "hard limit %d", wanted[i].which);
        EXPECT_EQ(text, now.rlim_max, before[i].rlim_max);
    }
    EXPECT_ERRNO(dup2(0, 301), EBADF);
    EXPECT_EQ("highest descriptor", dup2(0, 300), 300);
}

static void harm(int n) {
    struct rlimit limit;
    static const int which[] = {RLIMIT_NOFILE, RLIMIT_STACK, RLIMIT_CORE, RLIMIT_RTTIME};
    getrlimit(which[n], &limit);
    if (n % 2)
        limit.rlim_max--, limit.rlim_cur = limit.rlim_cur < limit.rlim_max ? limit.rlim_cur : limit.rlim_max;
    else
        limit.rlim_cur++;
    MUST(setrlimit(which[n], &limit));
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 4)
