// variants: static full
/* eventfds: counters from zero to the largest, the semaphore flag, non-blocking and close-on-exec, one shared by dup. */
#include "victim.h"
#include <sys/eventfd.h>

struct event {
    int flags;
    uint64_t count;
    int fd;
    int status;
};

/* criu forgets the semaphore flag, and the upper half of the counter */
#define SEMAPHORE (FULL ? EFD_SEMAPHORE : 0)

static struct event events[] = {
    {.flags = 0, .count = 5},
    {.flags = EFD_NONBLOCK, .count = 0},
    {.flags = SEMAPHORE | EFD_NONBLOCK, .count = 3},
    {.flags = EFD_CLOEXEC | EFD_NONBLOCK, .count = FULL ? UINT64_MAX - 1 : 77},
    {.flags = SEMAPHORE | EFD_CLOEXEC | EFD_NONBLOCK, .count = 0},
    {.flags = EFD_NONBLOCK, .count = FULL ? 1ull << 40 : UINT32_MAX},
};
enum { COUNT = sizeof events / sizeof *events };
static int duplicate;

static void setup(void) {
    for (int i = 0; i < COUNT; i++) {
        events[i].fd = (int)MUST(eventfd(0, events[i].flags));
        if (events[i].count)
            EXPECT(write(events[i].fd, &events[i].count, 8) == 8, "write: %s", strerror(errno));
        events[i].status = (int)MUST(fcntl(events[i].fd, F_GETFL));
    }
    duplicate = (int)MUST(dup(events[0].fd));
}

static void check(void) {
    uint64_t value;
    for (int i = 0; i < COUNT; i++) {
        struct event *e = &events[i];
        char text[64];
        snprintf(text, sizeof text, "eventfd %d: flags", i);
        EXPECT_EQ(text, MUST(fcntl(e->fd, F_GETFL)), e->status);
        snprintf(text, sizeof text, "eventfd %d: descriptor flags", i);
        EXPECT_EQ(text, MUST(fcntl(e->fd, F_GETFD)), e->flags & EFD_CLOEXEC ? FD_CLOEXEC : 0);
        if (e->count == UINT64_MAX - 1) {
            value = 1;
            EXPECT_ERRNO(write(e->fd, &value, 8), EAGAIN);
        }
        MUST(fcntl(e->fd, F_SETFL, O_NONBLOCK));
        if (e->flags & EFD_SEMAPHORE) {
            for (uint64_t n = 0; n < e->count; n++) {
                EXPECT(read(e->fd, &value, 8) == 8, "eventfd %d: expected %llu reads, got %llu", i,
                       (unsigned long long)e->count, (unsigned long long)n);
                EXPECT_EQ("value of a semaphore read", value, 1);
            }
        } else if (e->count) {
            EXPECT(read(i == 0 ? duplicate : e->fd, &value, 8) == 8, "eventfd %d: read: %s", i, strerror(errno));
            EXPECT(value == e->count, "eventfd %d: expected %llu, got %llu", i, (unsigned long long)e->count,
                   (unsigned long long)value);
        }
        EXPECT_ERRNO(read(e->fd, &value, 8), EAGAIN);
    }
    value = 9;
    EXPECT(write(events[0].fd, &value, 8) == 8, "write: %s", strerror(errno));
    EXPECT(read(duplicate, &value, 8) == 8 && value == 9, "the duplicate is another eventfd");
}

static void harm(int n) {
    uint64_t v = 1;
    int fd;
    switch (n) {
    case 0: if (write(events[0].fd, &v, 8) != 8) abort(); break;
    case 1: fcntl(events[1].fd, F_SETFL, 0); break;
    case 2: if (read(events[2].fd, &v, 8) != 8) abort(); break;
    case 3: fcntl(events[3].fd, F_SETFD, 0); break;
    case 5: fd = eventfd(3, EFD_NONBLOCK); dup2(fd, events[2].fd); close(fd); break;
    case 4: fd = eventfd(5, 0); dup2(fd, duplicate); close(fd); break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = FULL ? 6 : 5)
