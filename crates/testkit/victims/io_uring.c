/* An io_uring instance with a request in flight (a poll of a pipe). */
#include "refused.h"
#include <linux/io_uring.h>
#include <poll.h>

static struct io_uring_params params;
static unsigned char *ring;
static struct io_uring_sqe *entries;
static int ends[2];

static _Atomic unsigned *at(unsigned offset) { return (_Atomic unsigned *)(void *)(ring + offset); }

static void setup(void) {
    object = obtain("io_uring_setup", syscall(SYS_io_uring_setup, 4, &params));
    size_t size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
    ring = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, object, IORING_OFF_SQ_RING);
    entries = mmap(NULL, params.sq_entries * sizeof *entries, PROT_READ | PROT_WRITE, MAP_SHARED, object, IORING_OFF_SQES);
    EXPECT(ring != MAP_FAILED && entries != MAP_FAILED, "mmap: %s", strerror(errno));
    MUST(pipe(ends));
    memset(&entries[0], 0, sizeof entries[0]);
    entries[0].opcode = IORING_OP_POLL_ADD;
    entries[0].fd = ends[0];
    entries[0].poll32_events = POLLIN;
    entries[0].user_data = 4711;
    at(params.sq_off.array)[0] = 0;
    atomic_store(at(params.sq_off.tail), 1);
    EXPECT_EQ("submitted", syscall(SYS_io_uring_enter, object, 1, 0, 0, NULL, 0), 1);
}

static void check(void) {
    EXPECT_EQ("completions before", atomic_load(at(params.cq_off.tail)), 0);
    EXPECT_EQ("write", write(ends[1], "x", 1), 1);
    MUST(syscall(SYS_io_uring_enter, object, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0));
    struct io_uring_cqe *done = (void *)(ring + params.cq_off.cqes);
    EXPECT_EQ("user data", done[0].user_data, 4711);
    EXPECT_EQ("events", done[0].res & POLLIN, POLLIN);
}

VICTIM(.setup = setup, .check = check, .harm = lose_object, .harms = 1)
