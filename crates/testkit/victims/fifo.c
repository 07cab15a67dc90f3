/* Named pipes: reader and writer in two processes, with bytes in it; opened for both by one process; non-blocking;
 * one whose name is gone. */
#include "talk.h"

static int reading, both, nonblocking, nameless[2], status[3];
static pid_t child;

static void child_main(void) {
    int writing = (int)MUST(open("one", O_WRONLY));
    EXPECT_EQ("write", write(writing, "from before;", 12), 12);
    atomic_store(&talk->up, 1);
    talk_wait(1);
    EXPECT_EQ("child: write", write(writing, "from after", 10), 10);
    close(writing);
    atomic_store(&talk->done, 1);
    _exit(0);
}

static void setup(void) {
    talk_init();
    MUST(mkfifo("one", 0620));
    MUST(mkfifo("two", 0600));
    MUST(mkfifo("three", 0600));
    child = (pid_t)MUST(fork());
    if (child == 0)
        child_main();
    reading = (int)MUST(open("one", O_RDONLY));
    both = (int)MUST(open("two", O_RDWR | O_CLOEXEC));
    EXPECT_EQ("write", write(both, "to itself", 9), 9);
    nonblocking = (int)MUST(open("three", O_RDONLY | O_NONBLOCK));
    {
        MUST(mkfifo("four", 0600));
        nameless[0] = (int)MUST(open("four", O_RDONLY | O_NONBLOCK));
        nameless[1] = (int)MUST(open("four", O_WRONLY));
        EXPECT_EQ("write", write(nameless[1], "nameless", 8), 8);
        MUST(unlink("four"));
    }
    await_flag("child", &talk->up, 1);
    status[0] = (int)MUST(fcntl(reading, F_GETFL));
    status[1] = (int)MUST(fcntl(both, F_GETFL));
    status[2] = (int)MUST(fcntl(nonblocking, F_GETFL));
}

static void check(void) {
    char bytes[64];
    struct stat by_name, by_fd;
    EXPECT_EQ("flags", MUST(fcntl(reading, F_GETFL)), status[0]);
    EXPECT_EQ("flags", MUST(fcntl(both, F_GETFL)), status[1]);
    EXPECT_EQ("flags", MUST(fcntl(nonblocking, F_GETFL)), status[2]);
    EXPECT_EQ("descriptor flags", MUST(fcntl(both, F_GETFD)), FD_CLOEXEC);
    MUST(stat("one", &by_name));
    MUST(fstat(reading, &by_fd));
    EXPECT_EQ("inode", by_fd.st_ino, by_name.st_ino);
    EXPECT_EQ("mode", by_fd.st_mode & 07777, 0620 & ~022);
    atomic_store(&talk->stage, 1);
    await_flag("child", &talk->done, 1);
    EXPECT_EQ("bytes in the fifo", read(reading, bytes, 64), 22);
    EXPECT_MEM("bytes in the fifo", bytes, "from before;from after", 22);
    reap_ok("child", child);
    EXPECT_EQ("read after the writer is gone", read(reading, bytes, 64), 0);
    EXPECT_EQ("bytes to itself", read(both, bytes, 64), 9);
    EXPECT_MEM("bytes to itself", bytes, "to itself", 9);
    EXPECT_EQ("read without a writer", read(nonblocking, bytes, 1), 0);
    int writing = (int)MUST(open("three", O_WRONLY | O_NONBLOCK));
    EXPECT_ERRNO(read(nonblocking, bytes, 1), EAGAIN);
    EXPECT_EQ("write", write(writing, "x", 1), 1);
    EXPECT_EQ("read", read(nonblocking, bytes, 5), 1);
    {
        EXPECT_EQ("bytes in the nameless one", read(nameless[0], bytes, 64), 8);
        EXPECT_MEM("bytes in the nameless one", bytes, "nameless", 8);
        EXPECT_ERRNO(access("four", F_OK), ENOENT);
    }
}

static void harm(int n) {
    char byte;
    if (n == 0)
        MUST(read(reading, &byte, 1));
    if (n == 1)
        MUST(write(both, "x", 1));
    if (n == 2)
        fcntl(nonblocking, F_SETFL, 0);
    if (n == 3)
        dup2(both, nonblocking);
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 4)
