// variants: full
/* timerfds on three clocks: relative and absolute, intervals, far away, ticking, disarmed, expired with ticks unread; in
 * the full variant one that reports jumps of the clock. */
#include "victim.h"
#include <sys/timerfd.h>

enum { FAR, ABSOLUTE, TICKING, DISARMED, EXPIRED, ONCE, BOOT, CANCEL, COUNT };
static int fds[COUNT], status[COUNT];
static struct itimerspec set[COUNT];
static long long at_start;
static const int clocks[COUNT] = {CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC,
                                  CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_REALTIME};
static int duplicate;

static long long ns(struct timespec t) { return t.tv_sec * 1000000000LL + t.tv_nsec; }

static void setup(void) {
    set[FAR] = (struct itimerspec){{3, 14}, {5000, 9}};
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    set[ABSOLUTE] = (struct itimerspec){{0, 0}, {now.tv_sec + 7000, 5}};
    set[TICKING] = (struct itimerspec){{0, 3000000}, {0, 3000000}};
    set[EXPIRED] = (struct itimerspec){{1000, 0}, {0, 1}};
    set[ONCE] = (struct itimerspec){{0, 0}, {0, 1}};
    set[BOOT] = (struct itimerspec){{0, 0}, {800, 0}};
    set[CANCEL] = (struct itimerspec){{0, 0}, {now.tv_sec + 9000, 0}};
    at_start = now_ns(CLOCK_BOOTTIME);
    for (int i = 0; i < COUNT; i++) {
        fds[i] = (int)MUST(timerfd_create(clocks[i], i % 2 ? TFD_NONBLOCK : TFD_NONBLOCK | TFD_CLOEXEC));
        int flags = i == ABSOLUTE ? TFD_TIMER_ABSTIME : 0;
        if (i == CANCEL)
            flags = FULL ? TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET : TFD_TIMER_ABSTIME;
        if (ns(set[i].it_value))
            MUST(timerfd_settime(fds[i], flags, &set[i], NULL));
        status[i] = (int)MUST(fcntl(fds[i], F_GETFL));
    }
    duplicate = (int)MUST(dup(fds[EXPIRED]));
    sleep_ns(1000000);
}

static void check(void) {
    long long elapsed = now_ns(CLOCK_BOOTTIME) - at_start + 1000000000LL;
    struct itimerspec now[COUNT];
    for (int i = 0; i < COUNT; i++) {
        char text[64];
        snprintf(text, sizeof text, "timerfd %d: flags", i);
        EXPECT_EQ(text, MUST(fcntl(fds[i], F_GETFL)), status[i]);
        EXPECT_EQ("descriptor flags", MUST(fcntl(fds[i], F_GETFD)), i % 2 ? 0 : FD_CLOEXEC);
        MUST(timerfd_gettime(fds[i], &now[i]));
        snprintf(text, sizeof text, "timerfd %d: interval", i);
        EXPECT_EQ(text, ns(now[i].it_interval), ns(set[i].it_interval));
        char line[2048], path[64], clock[32];
        snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fds[i]);
        slurp(path, line, sizeof line);
        snprintf(clock, sizeof clock, "clockid: %d\n", clocks[i]);
        EXPECT(strstr(line, clock), "timerfd %d: not on clock %d: %s", i, clocks[i], line);
        if (FULL && i == CANCEL)
            EXPECT(strstr(line, "settime flags: 03"), "timerfd %d does not report jumps any more: %s", i, line);
    }
    static const int far[] = {FAR, BOOT};
    for (int i = 0; i < 2; i++) {
        long long left = ns(now[far[i]].it_value), total = ns(set[far[i]].it_value);
        EXPECT(left <= total && left >= total - elapsed, "timerfd %d: %lld ns left, expected %lld at most %lld less", far[i],
               left, total, elapsed);
    }
    static const int absolute[] = {ABSOLUTE, CANCEL};
    for (int i = 0; i < 2; i++) {
        /* absolute time is the wall clock's, however long the way was */
        long long due = now_ns(CLOCK_REALTIME) + ns(now[absolute[i]].it_value);
        EXPECT(llabs(due - ns(set[absolute[i]].it_value)) < 1000000000LL, "timerfd %d: due %lld ns off", absolute[i],
               due - ns(set[absolute[i]].it_value));
    }
    EXPECT_EQ("time left of the disarmed one", ns(now[DISARMED].it_value), 0);
    EXPECT_EQ("time left of the one that was for once", ns(now[ONCE].it_value), 0);
    /* criu takes the time left of one that has expired and has an interval for "disarmed" */
    EXPECT(!FULL || ns(now[EXPIRED].it_value) > 0, "the expired one with an interval is disarmed");
    EXPECT(!FULL || (ns(now[EXPIRED].it_value) <= 1000000000000LL && ns(now[EXPIRED].it_value) >= 1000000000000LL - elapsed),
           "the expired one: %lld ns left", ns(now[EXPIRED].it_value));
    uint64_t ticks;
    static const int quiet[] = {FAR, ABSOLUTE, DISARMED, BOOT, CANCEL};
    for (int i = 0; i < 5; i++)
        EXPECT_ERRNO(read(fds[quiet[i]], &ticks, 8), EAGAIN);
    EXPECT_EQ("read of the expired one", read(duplicate, &ticks, 8), 8);
    EXPECT_EQ("ticks of the expired one", ticks, 1);
    EXPECT_ERRNO(read(fds[EXPIRED], &ticks, 8), EAGAIN);
    EXPECT_EQ("read of the one for once", read(fds[ONCE], &ticks, 8), 8);
    EXPECT_EQ("ticks of the one for once", ticks, 1);
    EXPECT_EQ("read of the ticking one", read(fds[TICKING], &ticks, 8), 8);
    EXPECT((long long)ticks <= elapsed / 3000000 + 1, "%llu ticks in %lld ns", (unsigned long long)ticks, elapsed);
    for (int i = 0; FULL && read(fds[TICKING], &ticks, 8) != 8; i++) {
        EXPECT(i < 5000, "the ticking one stopped");
        sleep_ns(1000000);
    }
}

static void harm(int n) {
    uint64_t ticks;
    struct itimerspec t = {{0, 0}, {0, 0}};
    switch (n) {
    case 0: MUST(read(fds[EXPIRED], &ticks, 8)); break;
    case 1: MUST(timerfd_settime(fds[FAR], 0, &t, NULL)); break;
    case 2: t.it_value.tv_sec = 6900; MUST(timerfd_settime(fds[ABSOLUTE], 0, &t, NULL)); break;
    case 3: t.it_value.tv_nsec = 1; MUST(timerfd_settime(fds[DISARMED], 0, &t, NULL)); break;
    case 4: t.it_interval.tv_sec = 1; t.it_value.tv_nsec = 1; MUST(timerfd_settime(fds[TICKING], 0, &t, NULL)); break;
    case 5: fcntl(fds[ONCE], F_SETFL, 0); break;
    case 6: t.it_value.tv_sec = 800; { int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK); timerfd_settime(fd, 0, &t, NULL);
              dup3(fd, fds[BOOT], O_CLOEXEC); close(fd); } break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 7)
