// variants: full
/* Open files without a name: with bytes and a hole, opened twice, duplicated, mapped; one whose name now belongs to
 * another file; one that still has another name; one renamed. In the full variant an unlinked directory and a file made
 * with O_TMPFILE. */
#include "areas.h"

static int ghost, ghost_dup, ghost_again, replaced, linked, renamed, directory = -1, temporary = -1;
static unsigned char *mapped;

static int make(const char *name, uint64_t seed, size_t length) {
    unsigned char bytes[4096];
    int fd = (int)MUST(open(name, O_RDWR | O_CREAT | O_EXCL, 0640));
    pattern_fill(bytes, length, seed);
    EXPECT(write(fd, bytes, length) == (ssize_t)length, "write %s: %s", name, strerror(errno));
    return fd;
}

static void expect_bytes(const char *what, int fd, uint64_t seed, size_t length) {
    unsigned char bytes[4097];
    EXPECT_EQ(what, pread(fd, bytes, 4097, 0), length);
    pattern_check(what, bytes, length, seed);
}

static nlink_t links(int fd) {
    struct stat stat;
    MUST(fstat(fd, &stat));
    return stat.st_nlink;
}

static void setup(void) {
    ghost = make("ghost", 1, 4096);
    EXPECT_EQ("write", pwrite(ghost, "end", 3, 300000), 3);
    MUST(fchmod(ghost, 0604));
    MUST(lseek(ghost, 17, SEEK_SET));
    ghost_dup = (int)MUST(dup(ghost));
    ghost_again = (int)MUST(open("ghost", O_RDONLY | O_CLOEXEC));
    MUST(lseek(ghost_again, 300001, SEEK_SET));
    mapped = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, ghost, 0);
    EXPECT(mapped != MAP_FAILED, "mmap: %s", strerror(errno));
    MUST(unlink("ghost"));
    replaced = make("replaced", 2, 1000);
    MUST(unlink("replaced"));
    close(make("replaced", 3, 1500));
    linked = make("linked", 4, 900);
    MUST(link("linked", "second name"));
    MUST(unlink("linked"));
    renamed = make("first", 5, 800);
    MUST(rename("first", "later"));
    if (FULL) {
        MUST(mkdir("gone", 0750));
        directory = (int)MUST(open("gone", O_RDONLY | O_DIRECTORY));
        MUST(rmdir("gone"));
        temporary = (int)MUST(open(".", O_RDWR | O_TMPFILE, 0600));
        EXPECT_EQ("write", write(temporary, "temporary", 9), 9);
    }
}

static void check(void) {
    struct stat stat;
    unsigned char bytes[8192];
    MUST(fstat(ghost, &stat));
    EXPECT_EQ("names of the unlinked file", stat.st_nlink, 0);
    EXPECT_EQ("size of the unlinked file", stat.st_size, 300003);
    EXPECT_EQ("mode of the unlinked file", stat.st_mode & 07777, 0604);
    EXPECT(stat.st_blocks < 100, "the hole of the unlinked file is filled: %lld blocks", (long long)stat.st_blocks);
    EXPECT_EQ("position", lseek(ghost, 0, SEEK_CUR), 17);
    EXPECT_EQ("position of the second opening", lseek(ghost_again, 0, SEEK_CUR), 300001);
    EXPECT_EQ("read", read(ghost_again, bytes, 100), 2);
    EXPECT_MEM("end of the unlinked file", bytes, "nd", 2);
    EXPECT_EQ("read", pread(ghost_dup, bytes, 4096, 0), 4096);
    pattern_check("unlinked file", bytes, 4096, 1);
    EXPECT_EQ("read", pread(ghost, bytes, 4096, 100000), 4096);
    check_zero("hole of the unlinked file", bytes, 4096);
    MUST(lseek(ghost_dup, 5, SEEK_SET));
    EXPECT_EQ("position of the duplicate", lseek(ghost, 0, SEEK_CUR), 5);
    /* one inode behind all three and the mapping */
    memcpy(mapped + 5000, "mapped", 6);
    EXPECT_EQ("read", pread(ghost_again, bytes, 6, 5000), 6);
    EXPECT_MEM("bytes written through the mapping", bytes, "mapped", 6);
    EXPECT_ERRNO(access("ghost", F_OK), ENOENT);

    expect_bytes("file whose name belongs to another", replaced, 2, 1000);
    EXPECT_EQ("its names", links(replaced), 0);
    int fd = (int)MUST(open("replaced", O_RDONLY));
    expect_bytes("the other file of that name", fd, 3, 1500);
    close(fd);
    expect_bytes("file with another name", linked, 4, 900);
    EXPECT_EQ("its names", links(linked), 1);
    fd = (int)MUST(open("second name", O_RDWR));
    struct stat other;
    MUST(fstat(fd, &other));
    MUST(fstat(linked, &stat));
    EXPECT_EQ("inode under the other name", other.st_ino, stat.st_ino);
    close(fd);
    expect_bytes("renamed file", renamed, 5, 800);
    EXPECT_EQ("access", access("later", F_OK), 0);
    if (FULL) {
        MUST(fstat(directory, &stat));
        EXPECT(S_ISDIR(stat.st_mode), "the unlinked directory is none");
        EXPECT_EQ("names of the unlinked directory", stat.st_nlink, 0);
        EXPECT_EQ("read", pread(temporary, bytes, 100, 0), 9);
        EXPECT_MEM("file of O_TMPFILE", bytes, "temporary", 9);
        char path[64];
        snprintf(path, sizeof path, "/proc/self/fd/%d", temporary);
        MUST(linkat(AT_FDCWD, path, AT_FDCWD, "made", AT_SYMLINK_FOLLOW));
    }
}

static void harm(int n) {
    switch (n) {
    case 0: lseek(ghost, 18, SEEK_SET); break;
    case 1: MUST(pwrite(ghost, "x", 1, 4000)); break;
    case 2: MUST(ftruncate(ghost, 300002)); break;
    case 3: dup2(renamed, replaced); break;
    case 4: { int fd = open("second name", O_RDWR); (void)fd; unlink("second name"); close(fd); } break;
    case 5: mmap(mapped, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0); break;
    case 6: MUST(fallocate(ghost, 0, 65536, 131072)); break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 7)
