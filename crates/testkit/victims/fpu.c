// cflags: -pthread -mgeneral-regs-only
// variants: static
/* The extended registers (x87, SSE, AVX, AVX-512 as the cpu has them) and their control words, all in use and full of
 * known bits, in a thread that sleeps in a system call and in one that spins; and a thread that never used AVX. */
#include "xstate.h"

static struct xstate wanted[2], got[2];
static _Atomic int up, go, done;
static pthread_t threads[2];
static int harmed = -1;

static void *run(void *argument) {
    int n = (int)(intptr_t)argument;
    struct timespec nap = {0, 1000000};
    atomic_fetch_add(&up, 1);
    xstate_load(&wanted[n]);
    while (!atomic_load(&go)) {
        if (n == 0) {
            long answer;
            asm volatile("syscall" : "=a"(answer) : "a"(SYS_nanosleep), "D"(&nap), "S"(0) : "rcx", "r11", "memory");
        } else {
            asm volatile("pause");
        }
    }
    xstate_store(&got[n]);
    xstate_reset();
    atomic_fetch_add(&done, 1);
    return NULL;
}

static void setup(void) {
    xstate_init();
    for (int n = 0; n < 2; n++) {
        xstate_fill(&wanted[n], 600 + 11 * (uint64_t)n);
        MUST0(pthread_create(&threads[n], NULL, run, (void *)(intptr_t)n));
    }
    await_flag("threads", &up, 2);
    sleep_ns(3000000);
}

static void check(void) {
    atomic_store(&go, 1);
    await_flag("threads", &done, 2);
    for (int n = 0; n < 2; n++)
        MUST0(pthread_join(threads[n], NULL));
    unsigned last = 0;
    for (unsigned i = 2; i < 8; i++)
        if (xstate_mask >> i & 1)
            last = xstate_part[i].offset + xstate_part[i].size - 1;
    switch (harmed) {
    case 0: got[0].bytes[24] ^= 0x80; break;
    case 1: got[1].bytes[last ? last : 400] ^= 1; break;
    case 2: got[0].bytes[415] ^= 1; break;
    case 3: got[0].bytes[33] ^= 1; break;
    case 4: got[1].bytes[0] ^= 4; break;
    }
    xstate_compare("sleeping thread", &got[0], &wanted[0]);
    xstate_compare("spinning thread", &got[1], &wanted[1]);
}

static void harm(int n) { harmed = n; }

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 5)
