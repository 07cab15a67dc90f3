// cflags: -pthread
// variants: full
/* POSIX timers: ids with gaps, four clocks, each kind of notification, interval and one-shot, armed and not, one that
 * has expired many times into a blocked signal (its overrun count), one that still ticks. By raw system calls: the ids
 * are the kernel's. */
#include "victim.h"

enum { TIMERS = 10 };

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

struct timer {
    int id;
    bool deleted;
    clockid_t clock;
    int notify;
    int signal;
    uintptr_t value;
    struct itimerspec set;
};

static struct timer timers[TIMERS] = {
    {.clock = CLOCK_REALTIME, .notify = SIGEV_SIGNAL, .signal = SIGUSR1, .value = 11, .set = {{0, 0}, {4000, 5}}},
    {.clock = CLOCK_REALTIME, .deleted = true, .notify = SIGEV_SIGNAL, .signal = SIGUSR1},
    {.clock = CLOCK_MONOTONIC, .notify = SIGEV_SIGNAL, .signal = 38, .value = 0x123456789abcull, .set = {{3, 7}, {5000, 9}}},
    {.clock = CLOCK_MONOTONIC, .deleted = true, .notify = SIGEV_NONE},
    {.clock = CLOCK_BOOTTIME, .deleted = true, .notify = SIGEV_NONE},
    {.clock = CLOCK_MONOTONIC, .notify = SIGEV_NONE, .set = {{0, 0}, {700, 0}}},
    {.clock = CLOCK_BOOTTIME, .notify = SIGEV_SIGNAL, .signal = SIGUSR2, .value = 13, .set = {{0, 0}, {0, 0}}},
    {.clock = CLOCK_MONOTONIC, .notify = SIGEV_THREAD_ID | SIGEV_SIGNAL, .signal = 41, .value = 14, .set = {{0, 5000000}, {0, 5000000}}},
    {.clock = CLOCK_MONOTONIC, .notify = SIGEV_SIGNAL, .signal = 42, .value = 15, .set = {{0, 1000000}, {0, 1000000}}},
    {.clock = CLOCK_PROCESS_CPUTIME_ID, .notify = SIGEV_SIGNAL, .signal = 43, .value = 16, .set = {{50, 0}, {100, 0}}},
};
static long long at_start, wall_at_start;
static pthread_t thread;
static _Atomic pid_t thread_tid;
static _Atomic int thread_ticks, stop, bad_ticks;
static int next_id;

static long long ns(struct timespec t) { return t.tv_sec * 1000000000LL + t.tv_nsec; }

static void *run(void *unused) {
    (void)unused;
    thread_tid = (pid_t)syscall(SYS_gettid);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, 41);
    while (!stop) {
        siginfo_t info;
        struct timespec wait = {0, 20000000};
        int got = sigtimedwait(&set, &info, &wait);
        if (got == 41) {
            if (info.si_code != SI_TIMER || info.si_value.sival_int != 14)
                bad_ticks++;
            thread_ticks++;
        } else if (errno != EAGAIN) {
            /* sigtimedwait may be interrupted; a restart would be invisible */
            EXPECT(errno == EINTR, "sigtimedwait: %s", strerror(errno));
        }
    }
    return NULL;
}

static int create(struct timer *t) {
    struct sigevent event;
    memset(&event, 0, sizeof event);
    event.sigev_notify = t->notify & ~SIGEV_SIGNAL ? t->notify & ~SIGEV_SIGNAL : SIGEV_SIGNAL;
    if (t->notify == SIGEV_NONE)
        event.sigev_notify = SIGEV_NONE;
    event.sigev_signo = t->signal;
    event.sigev_value.sival_ptr = (void *)t->value;
    if (t->notify & SIGEV_THREAD_ID)
        event.sigev_notify_thread_id = thread_tid;
    int id = -1;
    MUST(syscall(SYS_timer_create, t->clock, &event, &id));
    return id;
}

static void setup(void) {
    sigset_t set;
    sigemptyset(&set);
    for (int s = 38; s <= 43; s++)
        sigaddset(&set, s);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    MUST(sigprocmask(SIG_BLOCK, &set, NULL));
    MUST0(pthread_create(&thread, NULL, run, NULL));
    while (!thread_tid)
        sleep_ns(1000000);
    at_start = now_ns(CLOCK_BOOTTIME);
    wall_at_start = now_ns(CLOCK_REALTIME);
    for (int i = 0; i < TIMERS; i++)
        timers[i].id = create(&timers[i]);
    next_id = timers[TIMERS - 1].id + 1;
    for (int i = 0; i < TIMERS; i++) {
        if (timers[i].deleted)
            MUST(syscall(SYS_timer_delete, timers[i].id));
        else
            MUST(syscall(SYS_timer_settime, timers[i].id, 0, &timers[i].set, NULL));
    }
    await_flag("thread's timer", &thread_ticks, 2);
    sleep_ns(10000000); /* lets timer 8 expire some times: one signal, the rest overrun */
}

static void check(void) {
    /* a restore may hide the time away from one clock and not from the other */
    long long elapsed = now_ns(CLOCK_BOOTTIME) - at_start, by_wall = now_ns(CLOCK_REALTIME) - wall_at_start;
    elapsed = (by_wall > elapsed ? by_wall : elapsed) + 1000000000LL;
    for (int i = 0; i < TIMERS; i++) {
        struct timer *t = &timers[i];
        struct itimerspec now;
        if (t->deleted) {
            EXPECT_ERRNO(syscall(SYS_timer_gettime, t->id, &now), EINVAL);
            continue;
        }
        long answer = syscall(SYS_timer_gettime, t->id, &now);
        EXPECT(answer == 0, "timer %d (id %d): timer_gettime: %s", i, t->id, strerror(errno));
        EXPECT(ns(now.it_interval) == ns(t->set.it_interval), "timer %d: interval: expected %lld ns, got %lld", i,
               ns(t->set.it_interval), ns(now.it_interval));
        long long value = ns(now.it_value), set = ns(t->set.it_value);
        if (set == 0)
            EXPECT(value == 0, "timer %d: is armed with %lld ns and was not", i, value);
        else if (set < 1000000000LL)
            EXPECT(value > 0 && value <= set, "timer %d: value: expected within its interval, got %lld ns", i, value);
        else
            EXPECT(value <= set && value >= set - elapsed, "timer %d: value: expected %lld ns, at most %lld less, got %lld",
                   i, set, elapsed, value);
    }
    int ticks = thread_ticks;
    await_flag("timer that is directed at a thread", &thread_ticks, ticks + 3);
    EXPECT_EQ("ticks with a wrong siginfo", bad_ticks, 0);

    /* the blocked one: one signal, its overrun at least what ten quiet milliseconds gave */
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, 42);
    siginfo_t info;
    struct timespec wait = {5, 0};
    EXPECT(sigtimedwait(&set, &info, &wait) == 42, "timer 8 sent no signal: %s", strerror(errno));
    EXPECT_EQ("code of timer 8's signal", info.si_code, SI_TIMER);
    EXPECT_EQ("value of timer 8's signal", info.si_value.sival_int, 15);
    EXPECT_EQ("timer id in timer 8's signal", info.si_timerid, timers[8].id);
    EXPECT(info.si_overrun >= (FULL ? 5 : 0), "overrun of timer 8: expected at least 5, got %d", info.si_overrun);
    EXPECT_EQ("timer_getoverrun of timer 8", syscall(SYS_timer_getoverrun, timers[8].id), info.si_overrun);
    /* it goes on */
    EXPECT(sigtimedwait(&set, &info, &wait) == 42, "timer 8 ticked once and stopped");
    EXPECT_EQ("timer id in timer 8's second signal", info.si_timerid, timers[8].id);

    /* each of the others fires with its own signal and value when its time comes */
    static const int fire[] = {0, 2, 6};
    for (size_t i = 0; i < sizeof fire / sizeof *fire; i++) {
        struct timer *t = &timers[fire[i]];
        struct itimerspec soon = {{0, 0}, {0, 1}};
        MUST(syscall(SYS_timer_settime, t->id, 0, &soon, NULL));
        sigemptyset(&set);
        sigaddset(&set, t->signal);
        EXPECT(sigtimedwait(&set, &info, &wait) == t->signal, "timer %d does not send signal %d", fire[i], t->signal);
        EXPECT_EQ("value of a timer's signal", (uintptr_t)info.si_value.sival_ptr, t->value);
        EXPECT_EQ("timer id of a timer's signal", info.si_timerid, t->id);
    }
    sigset_t left;
    sigpending(&left);
    EXPECT(!sigismember(&left, SIGUSR1) && !sigismember(&left, SIGUSR2) && !sigismember(&left, 43),
           "a timer fired that should not");
    /* a new timer gets an id that is free */
    struct timer fresh = {.clock = CLOCK_MONOTONIC, .notify = SIGEV_NONE};
    fresh.id = create(&fresh);
    for (int i = 0; i < TIMERS; i++)
        EXPECT(timers[i].deleted || timers[i].id != fresh.id, "a new timer got the used id %d", fresh.id);
    stop = 1;
    MUST0(pthread_join(thread, NULL));
}

static void harm(int n) {
    struct itimerspec t;
    switch (n) {
    case 0: syscall(SYS_timer_delete, timers[0].id); break;
    case 1: { int fd[64]; for (int i = 0; i < 3; i++) { struct timer x = {.clock = CLOCK_MONOTONIC, .notify = SIGEV_NONE};
              fd[i] = create(&x); (void)fd[i]; } timers[1].id = fd[0]; } break;
    case 2: syscall(SYS_timer_gettime, timers[2].id, &t); t.it_interval.tv_nsec++; syscall(SYS_timer_settime, timers[2].id, 0, &t, NULL); break;
    case 3: syscall(SYS_timer_gettime, timers[5].id, &t); t.it_value.tv_sec -= 60; syscall(SYS_timer_settime, timers[5].id, 0, &t, NULL); break;
    case 4: t = (struct itimerspec){{0, 0}, {100, 0}}; syscall(SYS_timer_settime, timers[6].id, 0, &t, NULL); break;
    case 5: t = (struct itimerspec){{0, 0}, {0, 0}}; syscall(SYS_timer_settime, timers[7].id, 0, &t, NULL); break;
    case 6: syscall(SYS_timer_delete, timers[8].id); break;
    case 7: kill(getpid(), SIGUSR2); break;
    case 8: { sigset_t s; sigemptyset(&s); sigaddset(&s, 42); siginfo_t i; sigwaitinfo(&s, &i);
              syscall(SYS_timer_gettime, timers[8].id, &t);
              t.it_interval = t.it_value = (struct timespec){1, 0}; syscall(SYS_timer_settime, timers[8].id, 0, &t, NULL); } break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 9)
