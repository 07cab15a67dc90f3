// cflags: -pthread -mgeneral-regs-only
/* Two threads that do nothing but fill all extended registers, keep them for some microseconds, one of them across
 * system calls, and compare: whatever stops them in between, and however often, no bit may differ. */
#include "xstate.h"

static struct xstate wanted[2], got[2];
static _Atomic int up, stop;
static _Atomic uint64_t rounds[2];
static pthread_t threads[2];
static int harmed = -1;

static void *run(void *argument) {
    int n = (int)(intptr_t)argument;
    uint64_t seed = 700 + (uint64_t)n;
    while (!atomic_load(&stop)) {
        seed += 2;
        xstate_fill(&wanted[n], seed);
        xstate_load(&wanted[n]);
        for (int i = 0; i < 300; i++) {
            if (n == 0 && i % 100 == 0) {
                long answer;
                asm volatile("syscall" : "=a"(answer) : "a"(SYS_sched_yield) : "rcx", "r11", "memory");
            }
            asm volatile("pause");
        }
        xstate_store(&got[n]);
        xstate_reset();
        if (harmed == n)
            got[n].bytes[n ? 170 : 40] ^= 1;
        xstate_compare(n ? "spinning thread" : "yielding thread", &got[n], &wanted[n]);
        if (atomic_fetch_add(&rounds[n], 1) == 0)
            atomic_fetch_add(&up, 1);
    }
    return NULL;
}

static void setup(void) {
    xstate_init();
    for (int n = 0; n < 2; n++)
        MUST0(pthread_create(&threads[n], NULL, run, (void *)(intptr_t)n));
    await_flag("threads", &up, 2);
}

static void check(void) {
    for (int n = 0; n < 2; n++) {
        uint64_t before = rounds[n];
        for (int i = 0; rounds[n] < before + 10; i++) {
            EXPECT(i < 5000, "thread %d does not run", n);
            sleep_ns(1000000);
        }
    }
    atomic_store(&stop, 1);
    for (int n = 0; n < 2; n++)
        MUST0(pthread_join(threads[n], NULL));
}

static void harm(int n) { harmed = n; }

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 2)
