// variants: full
/* Private memory: protections (with bytes under PROT_NONE), code, sparse areas, advice flags, growing areas, locked
 * pages, private file mappings part-written, low addresses. Bytes, protections, flags of the areas, and that untouched
 * pages stay untouched. */
#include "areas.h"
#include <setjmp.h>

enum {
    PLAIN, READ_ONLY, NONE, CODE, SPARSE, DONTFORK, WIPEONFORK, HUGEPAGE, NOHUGEPAGE, DONTDUMP, LOCKED, FILE_COPIED,
    FILE_READ, LOW, ZERO_READ, GUARDED, GROWS, SEQUENTIAL, ONFAULT, AREAS
};
static const char *names[AREAS] = {
    "plain", "read-only", "PROT_NONE", "code", "sparse", "MADV_DONTFORK", "MADV_WIPEONFORK", "MADV_HUGEPAGE",
    "MADV_NOHUGEPAGE", "MADV_DONTDUMP", "mlock", "private file mapping", "private read-only file mapping",
    "lowest address", "zero pages that were read", "guard pages by mprotect", "MAP_GROWSDOWN", "MADV_SEQUENTIAL",
    "MLOCK_ONFAULT",
};
static unsigned char *at[AREAS];
static size_t size[AREAS];
static struct area before[AREAS];
static unsigned char file_bytes[5 * 4096 + 100];

static void *map(int which, size_t length, int protection, int flags, int fd, off_t offset, void *where) {
    void *p = mmap(where, length, protection, MAP_PRIVATE | flags | (fd < 0 ? MAP_ANONYMOUS : 0), fd, offset);
    EXPECT(p != MAP_FAILED, "mmap of %s: %s", names[which], strerror(errno));
    at[which] = p;
    size[which] = length;
    return p;
}

static void plain(int which, size_t length) {
    map(which, length, PROT_READ | PROT_WRITE, 0, -1, 0, NULL);
    pattern_fill(at[which], length, 500 + (uint64_t)which);
}

static bool present(const void *page) {
    uint64_t entry = 0;
    int fd = (int)MUST(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
    EXPECT(pread(fd, &entry, 8, (off_t)((uintptr_t)page / 4096 * 8)) == 8, "pagemap: %s", strerror(errno));
    close(fd);
    return entry >> 62;
}

/* Known bytes for the sparse area's few pages. */
static const size_t sparse_pages[] = {0, 1, 2, 777, 100000, 131072, 262142, 262143};

__attribute__((noinline)) static unsigned deep(unsigned n) {
    volatile unsigned char frame[4096];
    frame[0] = (unsigned char)n;
    frame[4095] = frame[0];
    return n ? deep(n - 1) + frame[4095] - frame[0] + 1 : 0;
}

static void setup(void) {
    plain(PLAIN, 3 << 20);
    plain(READ_ONLY, 8 * 4096);
    MUST(mprotect(at[READ_ONLY], size[READ_ONLY], PROT_READ));
    plain(NONE, 16 * 4096);
    MUST(mprotect(at[NONE], size[NONE], PROT_NONE));
    plain(CODE, 4096);
    /* mov $1234567, %eax; ret */
    memcpy(at[CODE], "\xb8\x87\xd6\x12\x00\xc3", 6);
    MUST(mprotect(at[CODE], 4096, PROT_READ | PROT_EXEC));
    map(SPARSE, 1ul << 30, PROT_READ | PROT_WRITE, MAP_NORESERVE, -1, 0, NULL);
    MUST(madvise(at[SPARSE], size[SPARSE], MADV_NOHUGEPAGE));
    for (size_t i = 0; i < sizeof sparse_pages / sizeof *sparse_pages; i++)
        pattern_fill(at[SPARSE] + sparse_pages[i] * 4096, 4096, i);
    static const struct { int which, advice; } advised[] = {
        {DONTFORK, MADV_DONTFORK}, {WIPEONFORK, MADV_WIPEONFORK}, {NOHUGEPAGE, MADV_NOHUGEPAGE},
        {DONTDUMP, MADV_DONTDUMP}, {SEQUENTIAL, MADV_SEQUENTIAL},
    };
    for (size_t i = 0; i < sizeof advised / sizeof *advised; i++) {
        plain(advised[i].which, 5 * 4096);
        MUST(madvise(at[advised[i].which], 5 * 4096, advised[i].advice));
    }
    /* two whole huge pages and some more */
    unsigned char *aligned = map(HUGEPAGE, 8 << 20, PROT_READ | PROT_WRITE, 0, -1, 0, NULL);
    aligned = (unsigned char *)(((uintptr_t)aligned + (2 << 20) - 1) & ~((2ul << 20) - 1));
    MUST(madvise(aligned, 4 << 20, MADV_HUGEPAGE));
    at[HUGEPAGE] = aligned;
    size[HUGEPAGE] = 4 << 20;
    pattern_fill(aligned, 4 << 20, 500 + HUGEPAGE);
    plain(LOCKED, 4 * 4096);
    MUST(mlock(at[LOCKED], size[LOCKED]));
    plain(ONFAULT, 4 * 4096);
    MUST(mlock2(at[ONFAULT], size[ONFAULT], MLOCK_ONFAULT));

    pattern_fill(file_bytes, sizeof file_bytes, 9);
    int fd = (int)MUST(open("file", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    EXPECT(write(fd, file_bytes, sizeof file_bytes) == sizeof file_bytes, "write: %s", strerror(errno));
    map(FILE_COPIED, 5 * 4096, PROT_READ | PROT_WRITE, 0, fd, 4096, NULL);
    memset(at[FILE_COPIED] + 4096, 0, 4096); /* zeros that hide the file's bytes */
    memset(at[FILE_COPIED] + 3 * 4096 + 5, 'w', 10);
    memset(at[FILE_COPIED] + 4 * 4096 + 2000, 'x', 50); /* behind the end of the file */
    map(FILE_READ, 3 * 4096, PROT_READ, 0, fd, 0, NULL);
    close(fd);
    map(LOW, 4096, PROT_READ | PROT_WRITE, MAP_FIXED_NOREPLACE, -1, 0, (void *)0x10000);
    pattern_fill(at[LOW], 4096, 500 + LOW);
    map(ZERO_READ, 8 * 4096, PROT_READ | PROT_WRITE, 0, -1, 0, NULL);
    check_zero("fresh memory", at[ZERO_READ], 4 * 4096);
    plain(GUARDED, 9 * 4096);
    for (int i = 0; i < 9; i += 2)
        MUST(mprotect(at[GUARDED] + i * 4096, 4096, PROT_NONE));
    /* room below, so that it can grow */
    unsigned char *room = mmap(NULL, 4 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(room, 4 << 20);
    map(GROWS, 2 * 4096, PROT_READ | PROT_WRITE, MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0, room + (3 << 20));
    *(volatile unsigned char *)(at[GROWS] - 4096) = 0; /* grows once now */
    at[GROWS] -= 4096;
    size[GROWS] += 4096;
    pattern_fill(at[GROWS], size[GROWS], 500 + GROWS);
    deep(20);
    for (int i = 0; i < AREAS; i++)
        before[i] = area_of(at[i] + (i == GUARDED ? 4096 : 0));
}

static sigjmp_buf escape;
static volatile void *fault_address;

static void on_fault(int signal, siginfo_t *info, void *context) {
    (void)context;
    fault_address = info->si_addr;
    siglongjmp(escape, signal);
}

static void expect_fault(const char *what, unsigned char *address, bool writing) {
    fault_address = NULL;
    if (sigsetjmp(escape, 1) == 0) {
        if (writing)
            *(volatile unsigned char *)address = 1;
        else
            (void)*(volatile unsigned char *)address;
        fail("%s: %s of %p did not fault", what, writing ? "writing" : "reading", (void *)address);
    }
    EXPECT(fault_address == address, "%s: fault at %p, expected %p", what, (void *)fault_address, (void *)address);
}

static void check(void) {
    for (int i = 0; i < AREAS; i++) {
        struct area now = area_of(at[i] + (i == GUARDED ? 4096 : 0));
        EXPECT(strcmp(now.permissions, before[i].permissions) == 0, "%s: permissions: expected %s, got %s", names[i],
               before[i].permissions, now.permissions);
        same_flags(names[i], &before[i], &now, "rd wr ex sh gd dc wf hg nh dd lo nr");
        if (FULL)
            same_flags(names[i], &before[i], &now, "sr rr ac lf");
        if (i == FILE_COPIED || i == FILE_READ) {
            EXPECT_STR("file of a mapping", now.name, before[i].name);
            EXPECT_EQ("offset of a mapping", now.offset, before[i].offset);
        }
        if (i == GROWS)
            EXPECT(now.start == before[i].start, "%s: starts at %#lx, expected %#lx", names[i], now.start,
                   before[i].start);
    }
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER}, old;
    MUST(sigaction(SIGSEGV, &action, &old));
    expect_fault("read-only area", at[READ_ONLY] + 5, true);
    expect_fault("PROT_NONE area", at[NONE] + 4097, false);
    expect_fault("code", at[CODE], true);
    for (int i = 0; i < 9; i += 2)
        expect_fault("guard page", at[GUARDED] + i * 4096 + 7, false);
    EXPECT_EQ("code's answer", ((unsigned (*)(void))(void *)at[CODE])(), 1234567);
    MUST(mprotect(at[NONE], size[NONE], PROT_READ));
    MUST(mprotect(at[GUARDED], size[GUARDED], PROT_READ));

    static const int whole[] = {PLAIN, READ_ONLY, NONE, DONTFORK, WIPEONFORK, HUGEPAGE, NOHUGEPAGE, DONTDUMP,
                                LOCKED, LOW, GUARDED, GROWS, SEQUENTIAL, ONFAULT};
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
        pattern_check(names[whole[i]], at[whole[i]], size[whole[i]], 500 + (uint64_t)whole[i]);

    size_t known = sizeof sparse_pages / sizeof *sparse_pages;
    for (size_t i = 0; i < known; i++) {
        pattern_check("sparse area", at[SPARSE] + sparse_pages[i] * 4096, 4096, i);
        EXPECT(present(at[SPARSE] + sparse_pages[i] * 4096), "sparse area: page %zu is not there", sparse_pages[i]);
    }
    struct area sparse = area_of(at[SPARSE]);
    EXPECT(sparse.rss_kib <= 4 * (known + 8), "sparse area: %lu KiB resident, expected %zu", sparse.rss_kib, 4 * known);
    check_zero("sparse area's hole", at[SPARSE] + 3 * 4096, 4096);
    check_zero("memory only read before", at[ZERO_READ], size[ZERO_READ]);

    unsigned char *f = at[FILE_COPIED];
    EXPECT_MEM("untouched page of the private file mapping", f, file_bytes + 4096, 4096);
    check_zero("zeroed page of the private file mapping", f + 4096, 4096);
    EXPECT_MEM("private file mapping", f + 3 * 4096, file_bytes + 4 * 4096, 5);
    EXPECT_MEM("private file mapping", f + 3 * 4096 + 5, "wwwwwwwwww", 10);
    EXPECT_MEM("private file mapping", f + 3 * 4096 + 15, file_bytes + 4 * 4096 + 15, 4096 - 15);
    EXPECT_EQ("private file mapping behind the file's end", f[4 * 4096 + 2049], 'x');
    EXPECT_MEM("read-only file mapping", at[FILE_READ], file_bytes, 3 * 4096);
    /* the file itself was not written, and what was not copied still follows it */
    int fd = (int)MUST(open("file", O_RDWR));
    unsigned char bytes[10];
    EXPECT_EQ("read", pread(fd, bytes, 10, 4 * 4096 + 5), 10);
    EXPECT_MEM("the file", bytes, file_bytes + 4 * 4096 + 5, 10);
    EXPECT_EQ("write", pwrite(fd, "fresh", 5, 4096 + 100), 5);
    EXPECT_MEM("page of the file, not copied", at[FILE_READ] + 4096 + 100, "fresh", 5);
    close(fd);

    *(volatile unsigned char *)(at[GROWS] - 4096) = 1;
    struct area grown = area_of(at[GROWS]);
    EXPECT(grown.start < before[GROWS].start, "MAP_GROWSDOWN area does not grow");
    EXPECT_EQ("recursion", deep(500), 500);

    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        check_zero("MADV_WIPEONFORK area in a child", at[WIPEONFORK], size[WIPEONFORK]);
        expect_fault("MADV_DONTFORK area in a child", at[DONTFORK], false);
        _exit(0);
    }
    reap_ok("fork", child);
}

static void harm(int n) {
    switch (n) {
    case 0: at[PLAIN][1 << 20] ^= 1; break;
    case 1: mprotect(at[READ_ONLY], 4096, PROT_READ | PROT_WRITE); break;
    case 2: mprotect(at[NONE], size[NONE], PROT_READ | PROT_WRITE); at[NONE][9999] ^= 1; mprotect(at[NONE], size[NONE], PROT_NONE); break;
    case 3: mprotect(at[CODE], 4096, PROT_READ); break;
    case 4: madvise(at[SPARSE] + 777 * 4096, 4096, MADV_DONTNEED); break;
    case 5: for (int i = 0; i < 100; i++) at[SPARSE][(200 + i) * 4096ul] = 0; break;
    case 6: madvise(at[DONTFORK], size[DONTFORK], MADV_DOFORK); break;
    case 7: madvise(at[WIPEONFORK], size[WIPEONFORK], MADV_KEEPONFORK); break;
    case 8: madvise(at[HUGEPAGE], size[HUGEPAGE], MADV_NOHUGEPAGE); break;
    case 9: munlock(at[LOCKED], size[LOCKED]); break;
    case 10: madvise(at[FILE_COPIED] + 4096, 4096, MADV_DONTNEED); break;
    case 11: mprotect(at[GUARDED] + 4 * 4096, 4096, PROT_READ); break;
    case 12: at[FILE_COPIED][4 * 4096 + 2049] = 'y'; break;
    case 13: mmap(at[GROWS], size[GROWS], PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
             pattern_fill(at[GROWS], size[GROWS], 500 + GROWS); break;
    case 14: munmap(at[LOW], 4096); break;
    case 15: madvise(at[SEQUENTIAL], size[SEQUENTIAL], MADV_NORMAL); break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = FULL ? 16 : 15)
