/*
 * The protocol of a victim: a small program that owns one kind of kernel object and judges by itself whether a
 * checkpoint and restore kept it.
 *
 * It is started in an empty working directory of its own, with descriptors 0, 1, 2 on files in it or on /dev/null and
 * nothing else open. It makes its object (`setup`), creates the file `ready`, works or waits (`work`) until the file
 * `go` exists, then looks at everything that can be observed of the object (`check`) and writes one line to the file
 * `result`: "ok", "fail: ..." or "skip: ..." (the machine lacks what the victim is about). Exit status: 0, 1, 77.
 * Any process or thread of the victim may fail; the first verdict stays.
 *
 * `--harms` prints how many ways the victim knows to damage its own object; `--harm N` does number N just before the
 * check, which must then fail. That is how the checks themselves are tested.
 */
#ifndef VICTIM_H
#define VICTIM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct victim {
    void (*setup)(void);
    void (*work)(void); /* NULL: wait for `go`, sleeping */
    void (*check)(void);
    void (*harm)(int);
    int harms;
};

#define UNUSED __attribute__((unused))

/* True in the variant NAME_full of a victim, which also checks what stock criu is known to lose of its object. */
#ifndef FULL
#define FULL 0
#endif

static char victim_dir[PATH_MAX];
static int victim_argc UNUSED;
static char **victim_argv UNUSED;
static int victim_fds UNUSED; /* descriptors open at the start */

UNUSED static void victim_path(char *to, size_t size, const char *name) {
    if (snprintf(to, size, "%s/%s", victim_dir, name) >= (int)size)
        abort();
}

/* Writes the verdict unless one is there already. Uses no stdio, so that any thread at any time may call it. */
UNUSED static void verdict(const char *text) {
    char temp[PATH_MAX + 64], final[PATH_MAX + 64], name[64];
    snprintf(name, sizeof name, "result.%ld", (long)syscall(SYS_gettid));
    victim_path(temp, sizeof temp, name);
    victim_path(final, sizeof final, "result");
    int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return;
    size_t length = strlen(text);
    if (write(fd, text, length) != (ssize_t)length)
        abort();
    close(fd);
    if (link(temp, final) != 0 && errno != EEXIST)
        abort();
    unlink(temp);
}

UNUSED __attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...) {
    char text[1024] = "fail: ";
    va_list list;
    va_start(list, format);
    vsnprintf(text + 6, sizeof text - 8, format, list);
    va_end(list);
    strcat(text, "\n");
    verdict(text);
    _exit(1);
}

UNUSED __attribute__((noreturn, format(printf, 1, 2))) static void skip(const char *format, ...) {
    char text[1024] = "skip: ";
    va_list list;
    va_start(list, format);
    vsnprintf(text + 6, sizeof text - 8, format, list);
    va_end(list);
    strcat(text, "\n");
    verdict(text);
    _exit(77);
}

/* A condition that must hold; the rest is a printf-like text. */
#define EXPECT(condition, ...)                                                                                         \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            fail(__VA_ARGS__);                                                                                         \
    } while (0)

/* Two integers that must be equal. */
#define EXPECT_EQ(what, got, expected)                                                                                 \
    do {                                                                                                               \
        long long got_ = (long long)(got), expected_ = (long long)(expected);                                          \
        if (got_ != expected_)                                                                                         \
            fail("%s: expected %lld (%#llx), got %lld (%#llx)", what, expected_, expected_, got_, got_);               \
    } while (0)

#define EXPECT_STR(what, got, expected)                                                                                \
    do {                                                                                                               \
        const char *got_ = (got), *expected_ = (expected);                                                             \
        if (strcmp(got_, expected_) != 0)                                                                              \
            fail("%s: expected \"%s\", got \"%s\"", what, expected_, got_);                                            \
    } while (0)

#define EXPECT_MEM(what, got, expected, length)                                                                        \
    do {                                                                                                               \
        const unsigned char *got_ = (const void *)(got), *expected_ = (const void *)(expected);                        \
        for (size_t i_ = 0; i_ < (size_t)(length); i_++)                                                               \
            if (got_[i_] != expected_[i_])                                                                             \
                fail("%s: byte %zu: expected %#x, got %#x", what, i_, expected_[i_], got_[i_]);                        \
    } while (0)

/* A call that must not answer -1. */
#define MUST(call)                                                                                                     \
    ({                                                                                                                 \
        long must_ = (long)(call);                                                                                     \
        if (must_ == -1)                                                                                               \
            fail("%s:%d: %s: %s", __FILE__, __LINE__, #call, strerror(errno));                                         \
        must_;                                                                                                         \
    })

/* A call that must answer -1 with this errno. */
#define EXPECT_ERRNO(call, expected)                                                                                   \
    do {                                                                                                               \
        errno = 0;                                                                                                     \
        long answer_ = (long)(call);                                                                                   \
        int errno_ = errno;                                                                                            \
        if (answer_ != -1 || errno_ != (expected))                                                                     \
            fail("%s: expected errno %d, got %ld errno %d (%s)", #call, (expected), answer_, errno_, strerror(errno_)); \
    } while (0)

/* pthread functions answer an error number. */
#define MUST0(call)                                                                                                    \
    do {                                                                                                               \
        int must0_ = (call);                                                                                           \
        if (must0_ != 0)                                                                                               \
            fail("%s:%d: %s: %s", __FILE__, __LINE__, #call, strerror(must0_));                                        \
    } while (0)

UNUSED static void sleep_ns(long ns) {
    struct timespec left = {ns / 1000000000, ns % 1000000000};
    while (nanosleep(&left, &left) == -1 && errno == EINTR)
        ;
}

UNUSED static long long now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

UNUSED static bool gone(void) {
    char path[PATH_MAX + 64];
    victim_path(path, sizeof path, "go");
    return access(path, F_OK) == 0;
}

UNUSED static void wait_go(void) {
    while (!gone())
        sleep_ns(2000000);
}

UNUSED static void touch_file(const char *name) {
    char path[PATH_MAX + 64];
    victim_path(path, sizeof path, name);
    int fd = (int)MUST(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    close(fd);
}

/* A byte that depends on a seed and a position, never regular over pages. */
UNUSED static unsigned char pattern_byte(uint64_t seed, uint64_t at) {
    uint64_t x = (at + 1) * 0x9e3779b97f4a7c15ull ^ seed * 0xd1342543de82ef95ull;
    x ^= x >> 29;
    x *= 0xbf58476d1ce4e5b9ull;
    x ^= x >> 32;
    return (unsigned char)(x >> 7);
}

UNUSED static void pattern_fill(void *to, size_t length, uint64_t seed) {
    unsigned char *bytes = to;
    for (size_t i = 0; i < length; i++)
        bytes[i] = pattern_byte(seed, i);
}

UNUSED static void pattern_check(const char *what, const void *from, size_t length, uint64_t seed) {
    const unsigned char *bytes = from;
    for (size_t i = 0; i < length; i++)
        if (bytes[i] != pattern_byte(seed, i))
            fail("%s: byte %zu of %zu: expected %#x, got %#x", what, i, length, pattern_byte(seed, i), bytes[i]);
}

UNUSED static void check_zero(const char *what, const void *from, size_t length) {
    const unsigned char *bytes = from;
    for (size_t i = 0; i < length; i++)
        if (bytes[i] != 0)
            fail("%s: byte %zu of %zu: expected 0, got %#x", what, i, length, bytes[i]);
}

/* Waits until a flag in memory is raised; never forever. */
UNUSED static void await_flag(const char *what, _Atomic int *flag, int wanted) {
    for (int i = 0; atomic_load(flag) < wanted; i++) {
        if (i > 10000)
            fail("%s: waited 10 s for %d, have %d", what, wanted, atomic_load(flag));
        sleep_ns(1000000);
    }
}

/* Ends as the child did: a child that failed has already written why. */
UNUSED static void reap_ok(const char *what, pid_t pid) {
    int status = 0;
    pid_t got;
    do
        got = waitpid(pid, &status, 0);
    while (got == -1 && errno == EINTR);
    EXPECT(got == pid, "%s: waitpid(%d): expected the pid, got %d (%s)", what, pid, got, strerror(errno));
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: child %d: expected exit 0, got status %#x", what, pid,
           status);
}

/* Reads a whole small file of /proc. */
UNUSED static size_t slurp(const char *path, char *to, size_t size) {
    int fd = (int)MUST(open(path, O_RDONLY | O_CLOEXEC));
    size_t length = 0;
    for (;;) {
        ssize_t n = read(fd, to + length, size - 1 - length);
        if (n < 0)
            fail("read %s: %s", path, strerror(errno));
        if (n == 0)
            break;
        length += (size_t)n;
    }
    close(fd);
    to[length] = 0;
    return length;
}

/* The lowest free descriptor tells whether some were leaked or lost below it. */
UNUSED static int count_fds(void) {
    int count = 0;
    for (int fd = 0; fd < 1024; fd++)
        if (fcntl(fd, F_GETFD) != -1)
            count++;
    return count;
}

static int victim_main(const struct victim *victim, int argc, char **argv) {
    int harm = -1;
    victim_argc = argc;
    victim_argv = argv;
    if (argc == 2 && strcmp(argv[1], "--harms") == 0) {
        printf("%d\n", victim->harms);
        return 0;
    }
    if (argc == 3 && strcmp(argv[1], "--harm") == 0)
        harm = atoi(argv[2]);
    if (!getcwd(victim_dir, sizeof victim_dir))
        return 1;
    pid_t pid = getpid();
    victim_fds = count_fds();
    victim->setup();
    int fds = count_fds();
    touch_file("ready");
    if (victim->work)
        victim->work();
    else
        wait_go();
    if (harm >= 0)
        victim->harm(harm);
    EXPECT_EQ("descriptors open", count_fds(), fds);
    EXPECT_EQ("own pid", getpid(), pid);
    victim->check();
    verdict("ok\n");
    _exit(0);
}

/* VICTIM(.setup = ..., .check = ..., .harm = ..., .harms = N) makes the program. */
#define VICTIM(...)                                                                                                    \
    int main(int argc, char **argv) {                                                                                  \
        static const struct victim victim = {__VA_ARGS__};                                                             \
        return victim_main(&victim, argc, argv);                                                                       \
    }

#endif
