/* The registrations of membarrier: as asked for, and working. */
#include "victim.h"
#include <linux/membarrier.h>

#ifndef MEMBARRIER_CMD_GET_REGISTRATIONS
#define MEMBARRIER_CMD_GET_REGISTRATIONS (1 << 9)
#endif

static long before;

static long membarrier(int command) { return syscall(SYS_membarrier, command, 0, 0); }

static void setup(void) {
    MUST(membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED));
    MUST(membarrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED));
    MUST(membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE));
    before = membarrier(MEMBARRIER_CMD_GET_REGISTRATIONS);
}

static void check(void) {
    EXPECT_EQ("registrations", membarrier(MEMBARRIER_CMD_GET_REGISTRATIONS), before);
    MUST(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED));
    MUST(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE));
    MUST(membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED));
    EXPECT_ERRNO(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ), EPERM);
}

static void harm(int n) {
    (void)n;
    MUST(membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ));
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 1)
