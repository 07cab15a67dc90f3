/* A performance counter (a software one, which every machine has). */
#include "refused.h"
#include <linux/perf_event.h>

static void setup(void) {
    struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE, .size = sizeof attr, .config = PERF_COUNT_SW_TASK_CLOCK};
    object = obtain("perf_event_open", syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC));
}

static void check(void) {
    uint64_t first, second;
    EXPECT_EQ("read", read(object, &first, 8), 8);
    for (volatile int i = 0; i < 1000000; i++)
        ;
    EXPECT_EQ("read", read(object, &second, 8), 8);
    EXPECT(second > first, "the counter stands at %llu", (unsigned long long)second);
}

VICTIM(.setup = setup, .check = check, .harm = lose_object, .harms = 1)
