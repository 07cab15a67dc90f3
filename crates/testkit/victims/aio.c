/* The kernel's own asynchronous i/o: a context and its ring. */
#include "refused.h"
#include <linux/aio_abi.h>

static aio_context_t context;
static int file;
static char bytes[512] __attribute__((aligned(512)));

static void run_one(void) {
    struct iocb request = {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = (unsigned)file, .aio_buf = (unsigned long)bytes,
                           .aio_nbytes = 512, .aio_data = 99};
    struct iocb *list[1] = {&request};
    struct io_event event;
    EXPECT_EQ("submitted", MUST(syscall(SYS_io_submit, context, 1, list)), 1);
    EXPECT_EQ("completed", MUST(syscall(SYS_io_getevents, context, 1, 1, &event, NULL)), 1);
    EXPECT_EQ("its data", event.data, 99);
    EXPECT_EQ("its result", event.res, 512);
    pattern_check("bytes read", bytes, 512, 6);
}

static void setup(void) {
    obtain("io_setup", syscall(SYS_io_setup, 64, &context));
    file = (int)MUST(open("file", O_RDWR | O_CREAT, 0600));
    pattern_fill(bytes, 512, 6);
    EXPECT_EQ("write", write(file, bytes, 512), 512);
    run_one();
}

static void check(void) {
    memset(bytes, 0, sizeof bytes);
    run_one();
}

static void harm(int n) {
    (void)n;
    MUST(syscall(SYS_io_destroy, context));
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 1)
