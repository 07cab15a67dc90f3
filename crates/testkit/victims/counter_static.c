// cflags: -static
/* One thread, no libc loading: patterns in data, bss, heap and a mapping, a counter in the stack that only goes up. */
#include "victim.h"

enum { HEAP = 3 << 20, MAPPED = 5 << 20, BSS = 1 << 20 };

static unsigned char bss[BSS];
static unsigned char data[8192] = {1, 2, 3};
static unsigned char *heap, *mapped, *brk_area;
static void *brk_end;
static uint64_t ticks, sum;
static pid_t sid, pgid, ppid_at_start;
static long long last_monotonic;

static void setup(void) {
    /* brk by hand as well: malloc would use mmap for areas of this size */
    brk_area = sbrk(300000);
    brk_end = sbrk(0);
    pattern_fill(brk_area, 300000, 11);
    heap = malloc(HEAP);
    pattern_fill(heap, HEAP, 1);
    mapped = mmap(NULL, MAPPED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT(mapped != MAP_FAILED, "mmap: %s", strerror(errno));
    /* every second page only: the others must stay zero */
    for (size_t at = 0; at < MAPPED; at += 8192)
        pattern_fill(mapped + at, 4096, 2 + at);
    pattern_fill(bss, BSS, 3);
    pattern_fill(data, sizeof data, 4);
    sid = getsid(0);
    pgid = getpgid(0);
    ppid_at_start = getppid();
    last_monotonic = now_ns(CLOCK_MONOTONIC);
}

static void work(void) {
    while (!gone()) {
        ticks++;
        sum += ticks * ticks;
        long long t = now_ns(CLOCK_MONOTONIC);
        EXPECT(t >= last_monotonic, "monotonic clock went back: %lld to %lld", last_monotonic, t);
        last_monotonic = t;
        sleep_ns(1000000);
    }
}

static void check(void) {
    uint64_t expected = 0;
    for (uint64_t i = 1; i <= ticks; i++)
        expected += i * i;
    EXPECT_EQ("sum of squares", sum, expected);
    pattern_check("heap", heap, HEAP, 1);
    for (size_t at = 0; at < MAPPED; at += 8192) {
        pattern_check("mapping", mapped + at, 4096, 2 + at);
        check_zero("untouched page of the mapping", mapped + at + 4096, 4096);
    }
    pattern_check("bss", bss, BSS, 3);
    pattern_check("data", data, sizeof data, 4);
    pattern_check("brk area", brk_area, 300000, 11);
    EXPECT(sbrk(0) >= brk_end, "brk: expected at least %p, got %p", brk_end, sbrk(0));
    EXPECT(sbrk(4096) != (void *)-1, "brk does not grow: %s", strerror(errno));
    EXPECT_EQ("session", getsid(0), sid);
    EXPECT_EQ("process group", getpgid(0), pgid);
    long long t = now_ns(CLOCK_MONOTONIC);
    EXPECT(t >= last_monotonic, "monotonic clock went back: %lld to %lld", last_monotonic, t);
}

static void harm(int n) {
    switch (n) {
    case 0: heap[HEAP - 1] ^= 1; break;
    case 1: mapped[4096 * 7] = 1; break;
    case 2: bss[77777] ^= 1; break;
    case 3: data[4096] ^= 1; break;
    case 4: madvise(mapped + 8192, 4096, MADV_DONTNEED); break;
    case 5: sum++; break;
    case 6: brk_area[299999] ^= 1; break;
    }
}

VICTIM(.setup = setup, .work = work, .check = check, .harm = harm, .harms = 7)
