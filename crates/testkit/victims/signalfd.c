/* signalfds: masks, flags, one changed after it was made; a signal that waits is read through it, with its value. */
#include "victim.h"
#include <sys/signalfd.h>

static int first, second, status;

static void setup(void) {
    sigset_t block, mask;
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    sigaddset(&block, SIGUSR2);
    sigaddset(&block, 40);
    MUST(sigprocmask(SIG_BLOCK, &block, NULL));
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    first = (int)MUST(signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC));
    sigaddset(&mask, 64);
    second = (int)MUST(signalfd(-1, &mask, SFD_NONBLOCK));
    sigemptyset(&mask);
    sigaddset(&mask, 40);
    MUST(signalfd(second, &mask, 0));
    status = (int)MUST(fcntl(second, F_GETFL));
    MUST(sigqueue(getpid(), 40, (union sigval){.sival_int = 4040}));
}

static void check(void) {
    struct signalfd_siginfo info;
    EXPECT_EQ("flags", MUST(fcntl(second, F_GETFL)), status);
    EXPECT_EQ("descriptor flags", MUST(fcntl(first, F_GETFD)), FD_CLOEXEC);
    EXPECT_EQ("descriptor flags", MUST(fcntl(second, F_GETFD)), 0);
    EXPECT_ERRNO(read(first, &info, sizeof info), EAGAIN);
    EXPECT_EQ("read of the waiting signal", read(second, &info, sizeof info), sizeof info);
    EXPECT_EQ("signal", info.ssi_signo, 40);
    EXPECT_EQ("its value", info.ssi_int, 4040);
    EXPECT_EQ("its sender", info.ssi_pid, getpid());
    EXPECT_ERRNO(read(second, &info, sizeof info), EAGAIN);
    MUST(raise(SIGUSR1));
    EXPECT_ERRNO(read(second, &info, sizeof info), EAGAIN);
    EXPECT_EQ("read of a fresh signal", read(first, &info, sizeof info), sizeof info);
    EXPECT_EQ("fresh signal", info.ssi_signo, SIGUSR1);
    MUST(raise(SIGUSR2));
    EXPECT_ERRNO(read(first, &info, sizeof info), EAGAIN);
    EXPECT_ERRNO(read(second, &info, sizeof info), EAGAIN);
}

static void harm(int n) {
    sigset_t mask;
    struct signalfd_siginfo info;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    sigaddset(&mask, SIGUSR2);
    if (n == 0)
        MUST(signalfd(first, &mask, 0));
    if (n == 1)
        MUST(read(second, &info, sizeof info));
    if (n == 2)
        fcntl(second, F_SETFL, 0);
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 3)
