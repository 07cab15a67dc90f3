/* memfds: names, seals, sizes, sparse bytes, positions, flags; one mapped by parent and child with its descriptor closed
 * in one of them, one opened a second time read-only. */
#include "areas.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x20
#endif

enum { PLAIN, SEALED, SHARED, EMPTY, NOEXEC, COUNT };
static int fds[COUNT], reopened;
static int seals[COUNT];
static off_t lengths[COUNT];
static char links[COUNT][128];
static int fd_flags[COUNT], flags[COUNT];
static unsigned char *shared;
static pid_t child;
static int harmed = -1;

struct talk {
    _Atomic int child_up, stage, child_stage;
};

static struct talk *talk(void) { return (struct talk *)shared; }

static void link_of(int fd, char *to, size_t size) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t n = MUST(readlink(path, to, size - 1));
    to[n] = 0;
}

static void child_main(void) {
    close(fds[SHARED]); /* the mapping alone holds it here */
    atomic_store(&talk()->child_up, 1);
    await_flag("parent", &talk()->stage, 1);
    EXPECT_MEM("child: what the parent wrote", shared + 5000, "from parent", 11);
    memcpy(shared + 6000, "from child", 10);
    EXPECT_EQ("child: position shared with the parent", lseek(fds[PLAIN], 0, SEEK_CUR), 4242);
    atomic_store(&talk()->child_stage, 1);
    _exit(0);
}

static void setup(void) {
    fds[PLAIN] = (int)MUST(memfd_create("plain name", 0));
    fds[SEALED] = (int)MUST(memfd_create("sealed", MFD_ALLOW_SEALING | MFD_CLOEXEC));
    fds[SHARED] = (int)MUST(memfd_create("", MFD_ALLOW_SEALING));
    fds[EMPTY] = (int)MUST(memfd_create("empty", MFD_CLOEXEC));
    fds[NOEXEC] = (int)MUST(memfd_create("other", MFD_NOEXEC_SEAL));
    unsigned char bytes[4096];
    MUST(ftruncate(fds[PLAIN], 3 << 20));
    pattern_fill(bytes, 4096, 51);
    EXPECT_EQ("write", pwrite(fds[PLAIN], bytes, 4096, 1 << 20), 4096);
    MUST(lseek(fds[PLAIN], 1234, SEEK_SET));
    pattern_fill(bytes, 4096, 52);
    EXPECT_EQ("write", write(fds[SEALED], bytes, 3000), 3000);
    MUST(fcntl(fds[SEALED], F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL));
    MUST(ftruncate(fds[SHARED], 65536));
    MUST(fcntl(fds[SHARED], F_ADD_SEALS, F_SEAL_SHRINK));
    shared = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, fds[SHARED], 0);
    EXPECT(shared != MAP_FAILED, "mmap: %s", strerror(errno));
    pattern_fill(shared + 8192, 30000, 53);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fds[PLAIN]);
    reopened = (int)MUST(open(path, O_RDONLY | O_CLOEXEC));
    MUST(lseek(reopened, 77, SEEK_SET));
    for (int i = 0; i < COUNT; i++) {
        struct stat stat;
        MUST(fstat(fds[i], &stat));
        lengths[i] = stat.st_size;
        seals[i] = (int)MUST(fcntl(fds[i], F_GET_SEALS));
        fd_flags[i] = (int)MUST(fcntl(fds[i], F_GETFD));
        flags[i] = (int)MUST(fcntl(fds[i], F_GETFL));
        link_of(fds[i], links[i], sizeof links[i]);
    }
    child = (pid_t)MUST(fork());
    if (child == 0)
        child_main();
    await_flag("child", &talk()->child_up, 1);
}

static void check(void) {
    unsigned char bytes[4096];
    char text[64], link[128];
    for (int i = 0; i < COUNT; i++) {
        struct stat stat;
        MUST(fstat(fds[i], &stat));
        snprintf(text, sizeof text, "memfd %d: size", i);
        EXPECT_EQ(text, stat.st_size, lengths[i]);
        snprintf(text, sizeof text, "memfd %d: seals", i);
        EXPECT_EQ(text, MUST(fcntl(fds[i], F_GET_SEALS)), seals[i]);
        EXPECT_EQ("descriptor flags", MUST(fcntl(fds[i], F_GETFD)), fd_flags[i]);
        EXPECT_EQ("flags", MUST(fcntl(fds[i], F_GETFL)), flags[i]);
        link_of(fds[i], link, sizeof link);
        EXPECT_STR("name", link, links[i]);
    }
    EXPECT_EQ("position", lseek(fds[PLAIN], 0, SEEK_CUR), 1234);
    EXPECT_EQ("position of the second opening", lseek(reopened, 0, SEEK_CUR), 77);
    EXPECT_EQ("flags of the second opening", MUST(fcntl(reopened, F_GETFL)) & O_ACCMODE, O_RDONLY);
    EXPECT_EQ("read", pread(reopened, bytes, 4096, 1 << 20), 4096);
    pattern_check("plain", bytes, 4096, 51);
    EXPECT_EQ("read", pread(fds[PLAIN], bytes, 4096, 2 << 20), 4096);
    check_zero("hole", bytes, 4096);
    struct stat stat;
    MUST(fstat(fds[PLAIN], &stat));
    EXPECT(stat.st_blocks <= 64, "sparse memfd has %lld blocks", (long long)stat.st_blocks);
    EXPECT_EQ("read", pread(fds[SEALED], bytes, 4096, 0), 3000);
    pattern_check("sealed", bytes, 3000, 52);
    EXPECT_ERRNO(pwrite(fds[SEALED], "x", 1, 0), EPERM);
    EXPECT_ERRNO(ftruncate(fds[SHARED], 4096), EPERM);
    pattern_check("shared", shared + 8192, 30000, 53);
    memcpy(shared + 5000, "from parent", 11);
    MUST(lseek(fds[PLAIN], 4242, SEEK_SET));
    atomic_store(&talk()->stage, 1);
    await_flag("child", &talk()->child_stage, 1);
    EXPECT_EQ("read", pread(fds[SHARED], bytes, 10, 6000), 10);
    EXPECT_MEM("what the child wrote", bytes, "from child", 10);
    reap_ok("child", child);
}

static void harm(int n) {
    harmed = n;
    int fd;
    switch (n) {
    case 0: fcntl(fds[SHARED], F_ADD_SEALS, F_SEAL_GROW); break;
    case 1: lseek(fds[PLAIN], 1, SEEK_CUR); break;
    case 2: fd = memfd_create("plain name", 0); ftruncate(fd, 3 << 20) ? abort() : (void)0; lseek(fd, 1234, SEEK_SET);
            dup2(fd, fds[PLAIN]); close(fd); break;
    case 3: shared[8200] ^= 1; break;
    case 4: ftruncate(fds[EMPTY], 1) ? abort() : (void)0; break;
    case 5: fcntl(fds[EMPTY], F_SETFD, 0); break;
    case 6: fallocate(fds[PLAIN], 0, 2 << 20, 65536); break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 7)
