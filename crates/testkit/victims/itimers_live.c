/* The three interval timers ticking all the time into handlers: none may stop, none may fire in a burst that makes up
 * for the time away. */
#include "victim.h"
#include <sys/time.h>

static _Atomic long real_ticks, virtual_ticks, prof_ticks;
static volatile uint64_t burnt;

static void on_tick(int signal) {
    switch (signal) {
    case SIGALRM: real_ticks++; break;
    case SIGVTALRM: virtual_ticks++; break;
    case SIGPROF: prof_ticks++; break;
    }
}

static void burn(void) {
    for (int i = 0; i < 20000; i++)
        burnt = burnt * 31 + 7;
}

static void setup(void) {
    struct sigaction action = {.sa_handler = on_tick, .sa_flags = SA_RESTART};
    MUST(sigaction(SIGALRM, &action, NULL));
    MUST(sigaction(SIGVTALRM, &action, NULL));
    MUST(sigaction(SIGPROF, &action, NULL));
    struct itimerval five = {{0, 5000}, {0, 5000}}, ten = {{0, 10000}, {0, 10000}};
    MUST(setitimer(ITIMER_REAL, &five, NULL));
    MUST(setitimer(ITIMER_VIRTUAL, &ten, NULL));
    MUST(setitimer(ITIMER_PROF, &ten, NULL));
    while (real_ticks < 3 || virtual_ticks < 1 || prof_ticks < 1)
        burn();
}

static void check(void) {
    long real = real_ticks, virtual = virtual_ticks, prof = prof_ticks;
    long long start = now_ns(CLOCK_MONOTONIC);
    while (real_ticks < real + 5 || virtual_ticks < virtual + 2 || prof_ticks < prof + 2) {
        burn();
        EXPECT(now_ns(CLOCK_MONOTONIC) - start < 3000000000LL, "3 s on: %ld real, %ld virtual, %ld profiling ticks",
               real_ticks - real, virtual_ticks - virtual, prof_ticks - prof);
    }
    long long ms = (now_ns(CLOCK_MONOTONIC) - start) / 1000000;
    EXPECT(real_ticks - real <= ms / 5 + 10, "%ld real ticks of 5 ms in %lld ms", real_ticks - real, ms);
    for (int i = 0; i < 3; i++) {
        struct itimerval now;
        MUST(getitimer(i, &now));
        long interval = now.it_interval.tv_sec * 1000000 + now.it_interval.tv_usec;
        EXPECT(interval >= (i ? 10000 : 5000) && interval <= 15000, "interval of timer %d: %ld us", i, interval);
    }
}

static void harm(int n) {
    if (n < 3)
        setitimer(n, &(struct itimerval){{0, 0}, {0, 0}}, NULL);
    else
        setitimer(n - 3, &(struct itimerval){{0, 400}, {0, 400}}, NULL);
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 4)
