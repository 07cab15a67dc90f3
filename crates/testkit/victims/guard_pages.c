/* Lightweight guard regions (MADV_GUARD_INSTALL, Linux 6.13): they fault, what lies beside them is kept, and removing
 * them gives zero pages. */
#include "victim.h"
#include <setjmp.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif

enum { PAGES = 64 };
static unsigned char *area;
static sigjmp_buf escape;

static bool guarded(int page) { return page == 0 || (page >= 10 && page < 14) || page == 63; }

static void on_fault(int signal) { siglongjmp(escape, signal); }

static bool faults(unsigned char *address) {
    if (sigsetjmp(escape, 1) == 0) {
        (void)*(volatile unsigned char *)address;
        return false;
    }
    return true;
}

static void setup(void) {
    area = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT(area != MAP_FAILED, "mmap: %s", strerror(errno));
    pattern_fill(area, PAGES * 4096, 21);
    madvise(area + 30 * 4096, 4096, MADV_DONTNEED);
    if (madvise(area, 4096, MADV_GUARD_INSTALL) == -1)
        skip("MADV_GUARD_INSTALL: %s", strerror(errno));
    MUST(madvise(area + 10 * 4096, 4 * 4096, MADV_GUARD_INSTALL));
    MUST(madvise(area + 63 * 4096, 4096, MADV_GUARD_INSTALL));
}

static void check(void) {
    signal(SIGSEGV, on_fault);
    for (int i = 0; i < PAGES; i++) {
        EXPECT(faults(area + i * 4096 + 9) == guarded(i), "page %d: %s", i,
               guarded(i) ? "the guard is gone" : "faults and was no guard");
        if (guarded(i))
            continue;
        if (i == 30)
            check_zero("page never written", area + i * 4096, 4096);
        else
            for (int b = 0; b < 4096; b++)
                EXPECT(area[i * 4096 + b] == pattern_byte(21, (uint64_t)(i * 4096 + b)), "page %d byte %d differs", i, b);
    }
    MUST(madvise(area, PAGES * 4096, MADV_GUARD_REMOVE));
    for (int i = 0; i < PAGES; i++)
        if (guarded(i))
            check_zero("page after its guard was removed", area + i * 4096, 4096);
}

static void harm(int n) {
    if (n == 0)
        madvise(area + 11 * 4096, 4096, MADV_GUARD_REMOVE);
    if (n == 1)
        madvise(area + 20 * 4096, 4096, MADV_GUARD_INSTALL);
    if (n == 2)
        area[9 * 4096 + 4095] ^= 1;
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 3)
