// variants: static full
/* Pipes with both ends in one process: with bytes in them, empty, non-blocking, in packet mode, resized, full, with the
 * writer closed and bytes left, with the reader closed; an end held twice, by dup and by a second opening through
 * /proc. */
#include "victim.h"

enum { DATA, NONBLOCK, PACKET, RESIZED, BRIM, NO_WRITER, NO_READER, DUPED, PIPES };
static int ends[PIPES][2];
static int flags[PIPES][2];
static int sizes[PIPES];
static size_t filled;
static int reader_twice, writer_dup;
static struct stat stats[PIPES];

static unsigned char bytes[2 << 20];

static void put(int pipe, const void *from, size_t length) {
    EXPECT(write(ends[pipe][1], from, length) == (ssize_t)length, "write to pipe %d: %s", pipe, strerror(errno));
}

/* criu opens a pipe with two openings of one end by its /proc name: the kernel adds O_LARGEFILE (0x8000 here) then */
static int status_of(int fd) { return (int)MUST(fcntl(fd, F_GETFL)) & ~(FULL ? 0 : 0x8000); }

static void setup(void) {
    signal(SIGPIPE, SIG_IGN);
    for (int i = 0; i < PIPES; i++)
        MUST(pipe2(ends[i], i == NONBLOCK || i == BRIM ? O_NONBLOCK : i == PACKET && FULL ? O_DIRECT : i == DUPED ? O_CLOEXEC : 0));
    pattern_fill(bytes, 30000, 1);
    put(DATA, bytes, 30000);
    EXPECT_EQ("bytes read", read(ends[DATA][0], bytes, 5001), 5001); /* the first buffer is part-read */
    if (FULL) { /* criu refuses packet mode */
        put(PACKET, "first", 5);
        put(PACKET, "second packet", 13);
        put(PACKET, "3", 1);
    }
    MUST(fcntl(ends[RESIZED][1], F_SETPIPE_SZ, 256 * 1024));
    pattern_fill(bytes, 200000, 2);
    put(RESIZED, bytes, 200000);
    pattern_fill(bytes, sizeof bytes, 3);
    /* whole pages, so that it is full however the bytes are spread over buffers */
    ssize_t n;
    while ((n = write(ends[BRIM][1], bytes + filled, 4096)) > 0)
        filled += (size_t)n;
    EXPECT(errno == EAGAIN, "filling a pipe: %s", strerror(errno));
    put(NO_WRITER, "last words", 10);
    close(ends[NO_WRITER][1]);
    close(ends[NO_READER][0]);
    put(DUPED, "abcdef", 6);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", ends[DUPED][0]);
    reader_twice = (int)MUST(open(path, O_RDONLY | O_NONBLOCK));
    writer_dup = (int)MUST(dup(ends[DUPED][1]));
    for (int i = 0; i < PIPES; i++) {
        for (int e = 0; e < 2; e++) {
            if ((i == NO_WRITER && e == 1) || (i == NO_READER && e == 0))
                continue;
            flags[i][e] = status_of(ends[i][e]);
        }
        int some = i == NO_READER ? ends[i][1] : ends[i][0];
        sizes[i] = (int)MUST(fcntl(some, F_GETPIPE_SZ));
        MUST(fstat(some, &stats[i]));
    }
}

static void get(int pipe, size_t length) {
    ssize_t n = read(ends[pipe][0], bytes, length);
    EXPECT(n == (ssize_t)length, "pipe %d: expected %zu bytes, read gave %zd (%s)", pipe, length, n, strerror(errno));
}

static void set_nonblock(int fd) { MUST(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK)); }

static void check(void) {
    char text[64];
    for (int i = 0; i < PIPES; i++) {
        for (int e = 0; e < 2; e++) {
            snprintf(text, sizeof text, "pipe %d end %d: flags", i, e);
            if ((i == NO_WRITER && e == 1) || (i == NO_READER && e == 0))
                continue;
            EXPECT_EQ(text, status_of(ends[i][e]), flags[i][e]);
            snprintf(text, sizeof text, "pipe %d end %d: descriptor flags", i, e);
            EXPECT_EQ(text, MUST(fcntl(ends[i][e], F_GETFD)), i == DUPED ? FD_CLOEXEC : 0);
            struct stat now;
            MUST(fstat(ends[i][e], &now));
            EXPECT(S_ISFIFO(now.st_mode), "pipe %d end %d: not a pipe", i, e);
            EXPECT_EQ("owner", now.st_uid, stats[i].st_uid);
        }
        int some = i == NO_READER ? ends[i][1] : ends[i][0];
        snprintf(text, sizeof text, "pipe %d: size", i);
        EXPECT_EQ(text, MUST(fcntl(some, F_GETPIPE_SZ)), sizes[i]);
    }

    get(DATA, 24999);
    for (size_t i = 0; i < 24999; i++)
        EXPECT(bytes[i] == pattern_byte(1, i + 5001), "pipe with data: byte %zu differs", i);
    set_nonblock(ends[DATA][0]);
    EXPECT_ERRNO(read(ends[DATA][0], bytes, 1), EAGAIN);
    put(DATA, "xyz", 3);
    get(DATA, 3);

    EXPECT_ERRNO(read(ends[NONBLOCK][0], bytes, 1), EAGAIN);

    static const char *packets[] = {"first", "second packet", "3"};
    for (int i = 0; FULL && i < 3; i++) {
        ssize_t n = read(ends[PACKET][0], bytes, 4096);
        EXPECT(n == (ssize_t)strlen(packets[i]), "packet %d: expected %zu bytes, got %zd", i, strlen(packets[i]), n);
        EXPECT_MEM("packet", bytes, packets[i], n);
    }
    put(PACKET, "4", 1);
    put(PACKET, "5", 1);
    EXPECT_EQ("bytes read in packet mode or not", read(ends[PACKET][0], bytes, 100), FULL ? 1 : 2);

    get(RESIZED, 200000);
    pattern_check("resized pipe", bytes, 200000, 2);

    EXPECT_ERRNO(write(ends[BRIM][1], bytes, 1), EAGAIN);
    get(BRIM, filled);
    pattern_check("full pipe", bytes, filled, 3);
    EXPECT_ERRNO(read(ends[BRIM][0], bytes, 1), EAGAIN);

    get(NO_WRITER, 10);
    EXPECT_MEM("pipe without writer", bytes, "last words", 10);
    EXPECT_EQ("read at the end", read(ends[NO_WRITER][0], bytes, 1), 0);

    EXPECT_ERRNO(write(ends[NO_READER][1], "x", 1), EPIPE);

    EXPECT_EQ("flags of the second opening", MUST(fcntl(reader_twice, F_GETFL)) & (O_ACCMODE | O_NONBLOCK), O_NONBLOCK);
    EXPECT_EQ("descriptor flags of the duplicate", MUST(fcntl(writer_dup, F_GETFD)), 0);
    EXPECT_EQ("read by the second opening", read(reader_twice, bytes, 3), 3);
    EXPECT_MEM("shared pipe", bytes, "abc", 3);
    get(DUPED, 3);
    EXPECT_MEM("shared pipe", bytes, "def", 3);
    set_nonblock(writer_dup);
    EXPECT(fcntl(ends[DUPED][1], F_GETFL) & O_NONBLOCK, "the duplicate is an opening of its own");
    close(ends[DUPED][1]);
    EXPECT_ERRNO(read(reader_twice, bytes, 1), EAGAIN);
    close(writer_dup);
    EXPECT_EQ("read after the last writer is gone", read(reader_twice, bytes, 1), 0);
}

static void harm(int n) {
    int p[2], fd;
    switch (n) {
    case 0: get(DATA, 1); break;
    case 1: fcntl(ends[NONBLOCK][0], F_SETFL, 0); break;
    case 2: put(PACKET, "first", 5); break;
    case 3: fcntl(ends[BRIM][1], F_SETPIPE_SZ, 131072); break;
    case 4: get(BRIM, 1); break;
    case 5: get(NO_WRITER, 10); break;
    case 6: MUST(pipe(p)); dup2(p[1], ends[NO_READER][1]); fcntl(p[1], F_SETPIPE_SZ, sizes[NO_READER]); close(p[1]);
            dup2(p[0], ends[NO_READER][0]); if (p[0] != ends[NO_READER][0]) close(p[0]); break;
    case 7: { char path[64]; snprintf(path, sizeof path, "/proc/self/fd/%d", ends[DUPED][0]);
              fd = open(path, O_WRONLY); dup2(fd, writer_dup); close(fd); } break;
    case 8: put(DATA, "z", 1); break;
    case 9: fd = open("/dev/null", O_RDWR); dup2(fd, ends[RESIZED][0]); close(fd); break;
    case 10: fcntl(writer_dup, F_SETFD, FD_CLOEXEC); break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 11)
