/* A pipeline of three processes that never stops: numbers go from a producer through a filter to the leader, which checks
 * that every one comes once and in order, and reads slowly, so that the pipes are full and all block in read or write. */
#include "talk.h"

enum { NUMBERS = 500 };
static int last_read;
static pid_t producer, filter;
static uint64_t expected = 1;

static void read_all(int fd, void *to, size_t length) {
    size_t have = 0;
    while (have < length) {
        ssize_t n = read(fd, (char *)to + have, length - have);
        EXPECT(n > 0, "read of the pipeline: %zd %s", n, n < 0 ? strerror(errno) : "end");
        have += (size_t)n;
    }
}

static void write_all(int fd, const void *from, size_t length) {
    size_t done = 0;
    while (done < length) {
        ssize_t n = write(fd, (const char *)from + done, length - done);
        EXPECT(n > 0, "write to the pipeline: %s", strerror(errno));
        done += (size_t)n;
    }
}

static void produce(int out) {
    uint64_t n = 0;
    while (!atomic_load(&talk->stage)) {
        n++;
        write_all(out, &n, sizeof n);
    }
    n = 0;
    write_all(out, &n, sizeof n);
    _exit(0);
}

static void pass_on(int in, int out) {
    uint64_t n;
    do {
        read_all(in, &n, sizeof n);
        n = n ? n * 3 + 1 : 0;
        /* in two halves: a restore must not tear them apart either */
        write_all(out, &n, 3);
        write_all(out, (char *)&n + 3, 5);
    } while (n);
    _exit(0);
}

static bool take_one(void) {
    uint64_t n;
    read_all(last_read, &n, sizeof n);
    if (n == 0)
        return false;
    EXPECT_EQ("number from the pipeline", n, expected * 3 + 1);
    expected++;
    return true;
}

static void setup(void) {
    talk_init();
    int a[2], b[2];
    MUST(pipe(a));
    MUST(pipe(b));
    producer = (pid_t)MUST(fork());
    if (producer == 0) {
        close(a[0]), close(b[0]), close(b[1]);
        produce(a[1]);
    }
    filter = (pid_t)MUST(fork());
    if (filter == 0) {
        close(a[1]), close(b[0]);
        pass_on(a[0], b[1]);
    }
    close(a[0]), close(a[1]), close(b[1]);
    last_read = b[0];
    for (int i = 0; i < 100; i++)
        take_one();
}

static void work(void) {
    while (!gone()) {
        for (int i = 0; i < 20; i++)
            take_one();
        sleep_ns(1000000);
    }
}

static void check(void) {
    for (int i = 0; i < NUMBERS; i++)
        EXPECT(take_one(), "the pipeline ended too early");
    atomic_store(&talk->stage, 1);
    while (take_one())
        ;
    char byte;
    EXPECT_EQ("read at the end", read(last_read, &byte, 1), 0);
    reap_ok("producer", producer);
    reap_ok("filter", filter);
}

static void harm(int n) {
    uint64_t one;
    if (n == 0)
        read_all(last_read, &one, 8);
    if (n == 1)
        read_all(last_read, &one, 1);
    if (n == 2)
        kill(producer, SIGKILL);
}

VICTIM(.setup = setup, .work = work, .check = check, .harm = harm, .harms = 3)
