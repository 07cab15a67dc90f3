// cflags: -pthread
/* Three threads that wait most of the time: one sleeps on a relative time and sleeps the rest when a signal or a stop
 * ends it early, one polls a pipe with and without a limit, one waits in futexes that a fourth wakes in turn. No sleep
 * may be too short, no byte and no wake-up may be lost or doubled, and nobody may see an error other than EINTR of a
 * call that has a remaining time. */
#include "victim.h"
#include <poll.h>

static pthread_t sleeper, poller, waiter;
static _Atomic int up, stop;
static _Atomic uint32_t ping, pong;
static _Atomic uint64_t slept, polled, woken;
static uint64_t sent;
static int pipe_fds[2];
static int harmed = -1;

static void *run_sleeper(void *unused) {
    (void)unused;
    atomic_fetch_add(&up, 1);
    while (!atomic_load(&stop)) {
        struct timespec left = {0, 7000000};
        long long begin = now_ns(CLOCK_MONOTONIC);
        long answer;
        while ((answer = syscall(SYS_nanosleep, &left, &left)) == -1 && errno == EINTR)
            ;
        EXPECT_EQ("nanosleep", answer, 0);
        EXPECT(now_ns(CLOCK_MONOTONIC) - begin >= 7000000, "a sleep of 7 ms was too short");
        atomic_fetch_add(&slept, 1);
    }
    return NULL;
}

static void *run_poller(void *unused) {
    (void)unused;
    uint64_t expected = 0;
    atomic_fetch_add(&up, 1);
    for (bool limited = false;; limited = !limited) {
        struct pollfd descriptor = {pipe_fds[0], POLLIN, 0};
        int answer = poll(&descriptor, 1, limited ? 5 : -1);
        if (answer == 0) {
            EXPECT(limited, "a poll without limit ended without an event");
            continue;
        }
        if (answer == -1 && errno == EINTR)
            continue;
        EXPECT_EQ("poll", answer, 1);
        uint64_t number = 0;
        EXPECT_EQ("read", read(pipe_fds[0], &number, 8), 8);
        if (number == UINT64_MAX)
            return NULL;
        EXPECT_EQ("number from the pipe", number, expected);
        atomic_store(&polled, ++expected);
    }
}

static void *run_waiter(void *unused) {
    (void)unused;
    atomic_fetch_add(&up, 1);
    for (uint32_t turn = 0;; turn++) {
        while (atomic_load(&ping) == turn) {
            long answer = syscall(SYS_futex, &ping, FUTEX_WAIT_PRIVATE, turn, NULL, NULL, 0);
            EXPECT(answer == 0 || errno == EAGAIN, "futex wait: %s", strerror(errno));
        }
        if (atomic_load(&ping) == UINT32_MAX)
            return NULL;
        EXPECT_EQ("turn", atomic_load(&ping), turn + 1);
        atomic_fetch_add(&woken, 1);
        atomic_store(&pong, turn + 1);
        syscall(SYS_futex, &pong, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
}

static void setup(void) {
    MUST(pipe(pipe_fds));
    MUST0(pthread_create(&sleeper, NULL, run_sleeper, NULL));
    MUST0(pthread_create(&poller, NULL, run_poller, NULL));
    MUST0(pthread_create(&waiter, NULL, run_waiter, NULL));
    while (atomic_load(&up) < 3)
        sleep_ns(1000000);
}

static void send_number(uint64_t number) { EXPECT_EQ("write", write(pipe_fds[1], &number, 8), 8); }

static void work(void) {
    uint32_t turn = 0;
    while (!gone()) {
        send_number(sent++);
        atomic_store(&ping, turn + 1);
        syscall(SYS_futex, &ping, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
        while (atomic_load(&pong) == turn)
            syscall(SYS_futex, &pong, FUTEX_WAIT_PRIVATE, turn, NULL, NULL, 0);
        turn++;
        sleep_ns(11000000);
    }
}

static void check(void) {
    if (harmed == 0)
        send_number(sent + 1);
    send_number(UINT64_MAX);
    atomic_store(&stop, 1);
    uint64_t turns = atomic_load(&pong);
    atomic_store(&ping, UINT32_MAX);
    syscall(SYS_futex, &ping, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    MUST0(pthread_join(sleeper, NULL));
    MUST0(pthread_join(poller, NULL));
    MUST0(pthread_join(waiter, NULL));
    EXPECT_EQ("numbers read", atomic_load(&polled), sent);
    EXPECT_EQ("wake-ups", atomic_load(&woken), turns + (harmed == 1));
    EXPECT(atomic_load(&slept) > 0, "nobody slept");
}

static void harm(int n) { harmed = n; }

VICTIM(.setup = setup, .work = work, .check = check, .harm = harm, .harms = 2)
