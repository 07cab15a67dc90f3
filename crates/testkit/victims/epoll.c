// variants: full
/* epoll sets: level- and edge-triggered, one-shot armed and spent, nested, two sets watching one target, data values, the
 * set itself duplicated; in the full variant a target whose watched descriptor is closed while a duplicate keeps it, and
 * an edge already taken, which may come once more but not lose the next. */
#include "victim.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

enum { LEVEL, EDGE, ONESHOT, SPENT, SILENT, WRITER, COUNT };
static int set, inner, outer, set_dup, targets[COUNT], writer_pipe[2], inner_event, survivor = -1;
static const uint64_t value[COUNT] = {0x1111222233334444, 7, UINT64_MAX, 0x8000000000000000, 0, 42};
static const uint32_t wanted[COUNT] = {EPOLLIN, EPOLLIN | EPOLLET, EPOLLIN | EPOLLONESHOT, EPOLLIN | EPOLLONESHOT,
                                       EPOLLIN | EPOLLPRI, EPOLLOUT};

static void add(int to, int fd, uint32_t events, uint64_t data) {
    struct epoll_event event = {.events = events, .data.u64 = data};
    MUST(epoll_ctl(to, EPOLL_CTL_ADD, fd, &event));
}

static void raise_event(int fd) {
    uint64_t one = 1;
    EXPECT(write(fd, &one, 8) == 8, "write: %s", strerror(errno));
}

/* The set's events now, those of `data` counted; nothing else may be there. */
static int collect(int from, uint64_t data[16]) {
    struct epoll_event events[16];
    int n = (int)MUST(epoll_wait(from, events, 16, 0));
    for (int i = 0; i < n; i++)
        data[i] = events[i].data.u64;
    return n;
}

static bool has(const uint64_t *data, int n, uint64_t wanted_value) {
    for (int i = 0; i < n; i++)
        if (data[i] == wanted_value)
            return true;
    return false;
}

static void setup(void) {
    uint64_t data[16];
    set = (int)MUST(epoll_create1(EPOLL_CLOEXEC));
    for (int i = 0; i < COUNT; i++) {
        if (i == WRITER) {
            MUST(pipe(writer_pipe));
            targets[i] = writer_pipe[1];
        } else {
            targets[i] = (int)MUST(eventfd(0, EFD_NONBLOCK));
        }
        add(set, targets[i], wanted[i], value[i]);
    }
    raise_event(targets[SPENT]);
    int n = collect(set, data);
    EXPECT(n == 2 && has(data, n, value[SPENT]) && has(data, n, value[WRITER]), "%d events at first", n);
    raise_event(targets[LEVEL]);
    if (FULL) {
        raise_event(targets[EDGE]);
        n = collect(set, data);
        EXPECT(n == 3 && has(data, n, value[EDGE]), "%d events with the edge", n);
        int watched = (int)MUST(eventfd(0, EFD_NONBLOCK));
        add(set, watched, EPOLLIN, 4711);
        survivor = (int)MUST(dup(watched));
        close(watched);
    }
    set_dup = (int)MUST(dup(set));
    inner = (int)MUST(epoll_create1(0));
    outer = (int)MUST(epoll_create1(0));
    inner_event = (int)MUST(eventfd(0, 0));
    add(inner, inner_event, EPOLLIN, 100);
    add(outer, inner, EPOLLIN, 200);
    add(outer, targets[SILENT], EPOLLIN, 300);
}

static void check(void) {
    uint64_t data[16];
    EXPECT_EQ("descriptor flags", MUST(fcntl(set, F_GETFD)), FD_CLOEXEC);
    int n = collect(set, data);
    EXPECT(has(data, n, value[LEVEL]), "the level-triggered event is gone");
    EXPECT(has(data, n, value[WRITER]), "the writable pipe is gone");
    /* an edge that was taken may come once more: nobody can ask which were */
    int again = has(data, n, value[EDGE]);
    EXPECT(FULL || !again, "an edge that was never raised comes");
    EXPECT_EQ("events", n, 2 + again);
    EXPECT_EQ("events when asked again", collect(set, data), 2);
    raise_event(targets[ONESHOT]);
    raise_event(targets[EDGE]);
    n = collect(set_dup, data);
    EXPECT(has(data, n, value[ONESHOT]) && has(data, n, value[EDGE]), "the one-shot or the edge does not come");
    EXPECT_EQ("events after raising two", n, 4);
    n = collect(set, data);
    EXPECT_EQ("events after one shot and edge are taken", n, 2);
    raise_event(targets[EDGE]);
    n = collect(set, data);
    EXPECT(n == 3 && has(data, n, value[EDGE]), "the next edge does not come: %d events", n);
    /* spent one-shots wait for a re-arm, and then see what is there */
    struct epoll_event event = {.events = wanted[SPENT], .data.u64 = 99};
    MUST(epoll_ctl(set, EPOLL_CTL_MOD, targets[SPENT], &event));
    n = collect(set, data);
    EXPECT(n == 3 && has(data, n, 99), "the re-armed one does not come: %d events", n);
    EXPECT_EQ("events of the outer set", collect(outer, data), 0);
    raise_event(inner_event);
    n = collect(outer, data);
    EXPECT(n == 1 && data[0] == 200, "nested set: %d events", n);
    n = collect(inner, data);
    EXPECT(n == 1 && data[0] == 100, "inner set: %d events", n);
    raise_event(targets[SILENT]);
    n = collect(outer, data);
    EXPECT(n == 2 && has(data, n, 300), "target of two sets: %d events in the outer", n);
    n = collect(set, data);
    EXPECT(n == 3 && has(data, n, value[SILENT]), "target of two sets: %d events in the first", n);
    if (FULL) {
        raise_event(survivor);
        n = collect(set, data);
        EXPECT(n == 4 && has(data, n, 4711), "target with its watched descriptor closed: %d events", n);
        close(survivor);
        n = collect(set, data);
        EXPECT(n == 3 && !has(data, n, 4711), "target closed for good: %d events", n);
    }
    for (int i = 0; i < COUNT; i++)
        MUST(epoll_ctl(set, EPOLL_CTL_DEL, targets[i], NULL));
    EXPECT_EQ("events of the emptied set", collect(set, data), 0);
}

static void harm(int n) {
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 8};
    uint64_t v;
    switch (n) {
    case 0: MUST(epoll_ctl(set, EPOLL_CTL_DEL, targets[ONESHOT], NULL)); break;
    case 1: MUST(epoll_ctl(set, EPOLL_CTL_MOD, targets[EDGE], &event)); break;
    case 2: event.events = EPOLLIN | EPOLLONESHOT; event.data.u64 = value[SPENT]; MUST(epoll_ctl(set, EPOLL_CTL_MOD, targets[SPENT], &event)); break;
    case 3: MUST(read(targets[LEVEL], &v, 8)); break;
    case 4: MUST(epoll_ctl(outer, EPOLL_CTL_DEL, inner, NULL)); break;
    case 5: { int fd = epoll_create1(0); dup2(fd, set_dup); close(fd); } break;
    case 6: FULL ? close(survivor) : (raise_event(targets[EDGE]), 0); break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 7)
