// variants: static
/* The three interval timers, far from expiring: value left and interval; one of them one-shot. */
#include "victim.h"
#include <sys/time.h>

static const struct itimerval set_to[3] = {
    {.it_interval = {7, 250000}, .it_value = {5000, 500000}},
    {.it_interval = {0, 0}, .it_value = {600, 0}},
    {.it_interval = {1, 1000}, .it_value = {90, 123456}},
};
static const char *names[3] = {"ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF"};
static long long at_start;

static long long us(struct timeval t) { return t.tv_sec * 1000000LL + t.tv_usec; }

static void setup(void) {
    for (int i = 0; i < 3; i++)
        MUST(setitimer(i, &set_to[i], NULL));
    at_start = now_ns(CLOCK_BOOTTIME);
}

static void check(void) {
    long long elapsed = (now_ns(CLOCK_BOOTTIME) - at_start) / 1000 + 1000000;
    for (int i = 0; i < 3; i++) {
        struct itimerval now;
        MUST(getitimer(i, &now));
        /* the kernel may round up to a tick */
        EXPECT(llabs(us(now.it_interval) - us(set_to[i].it_interval)) <= 10000, "%s: interval: expected %lld us, got %lld",
               names[i], us(set_to[i].it_interval), us(now.it_interval));
        EXPECT(us(now.it_value) <= us(set_to[i].it_value) + 10000 && us(now.it_value) >= us(set_to[i].it_value) - elapsed,
               "%s: value: expected %lld us at most %lld us less, got %lld", names[i], us(set_to[i].it_value), elapsed,
               us(now.it_value));
    }
    /* unsetting one leaves the others */
    struct itimerval none = {{0, 0}, {0, 0}}, old;
    MUST(setitimer(ITIMER_REAL, &none, &old));
    MUST(getitimer(ITIMER_REAL, &old));
    EXPECT_EQ("ITIMER_REAL unset", us(old.it_value), 0);
    MUST(getitimer(ITIMER_PROF, &old));
    EXPECT(us(old.it_value) > 0, "ITIMER_PROF was lost with ITIMER_REAL");
}

static void harm(int n) {
    struct itimerval t;
    getitimer(n % 3, &t);
    if (n < 3)
        t = (struct itimerval){{0, 0}, {0, 0}};
    else if (n < 6)
        t.it_interval.tv_sec += 1;
    else
        t.it_value.tv_sec -= 60;
    setitimer(n % 3, &t, NULL);
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 9)
