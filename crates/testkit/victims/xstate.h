/* The whole extended register state of x86-64: filled with a pattern by XRSTOR, read back by XSAVE. */
#ifndef XSTATE_H
#define XSTATE_H
#include "victim.h"
#include <cpuid.h>

enum { XSTATE_BYTES = 16384 };
struct xstate {
    _Alignas(64) unsigned char bytes[XSTATE_BYTES];
};

/* Components a program owns and may fill with anything: x87, SSE, AVX, and the three of AVX-512. Not PKRU (protections)
 * and not AMX (asks for permission first). */
enum { XSTATE_WANTED = 0xe7 };
static uint64_t xstate_mask;
static struct {
    unsigned offset, size;
} xstate_part[8];

UNUSED static void xstate_init(void) {
    unsigned a, b, c, d;
    __cpuid(1, a, b, c, d);
    if (!(c & (1u << 27)))
        skip("the cpu has no xsave");
    unsigned low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    xstate_mask = low & XSTATE_WANTED;
    xstate_part[0].offset = 0;
    xstate_part[0].size = 160; /* control words and the eight x87 registers */
    xstate_part[1].offset = 160;
    xstate_part[1].size = 256;
    for (unsigned i = 2; i < 8; i++) {
        if (!(xstate_mask >> i & 1))
            continue;
        __cpuid_count(0xd, i, a, b, c, d);
        EXPECT(a + b <= XSTATE_BYTES, "component %u ends at %u", i, a + b);
        xstate_part[i].offset = b;
        xstate_part[i].size = a;
    }
}

UNUSED static void xstate_fill(struct xstate *x, uint64_t seed) {
    memset(x, 0, sizeof *x);
    unsigned char *p = x->bytes;
    for (unsigned i = 1; i < 8; i++)
        if (xstate_mask >> i & 1)
            pattern_fill(p + xstate_part[i].offset, xstate_part[i].size, seed + i);
    *(uint16_t *)(p + 0) = 0x0a7f;               /* x87 control: round down, 53 bits, all masked */
    *(uint16_t *)(p + 2) = 0x1900 | (seed & 7 ? 0x40 : 0); /* x87 status: top 3, some condition bits */
    p[4] = 0xff;                                 /* all eight registers in use */
    *(uint32_t *)(p + 24) = 0x3f80 | (seed & 1 ? 0x8040 : 0); /* mxcsr: round down; flush and denormals-are-zero */
    for (int i = 0; i < 8; i++) {
        /* normal 80-bit numbers */
        pattern_fill(p + 32 + i * 16, 8, seed * 10 + (uint64_t)i);
        p[32 + i * 16 + 7] |= 0x80;
        *(uint16_t *)(p + 32 + i * 16 + 8) = (uint16_t)(0x3fff + i);
    }
    *(uint64_t *)(p + 512) = xstate_mask;
}

UNUSED static inline __attribute__((always_inline)) void xstate_load(const struct xstate *x) {
    asm volatile("xrstor64 %0" : : "m"(*x), "a"((unsigned)xstate_mask), "d"(0));
}

UNUSED static inline __attribute__((always_inline)) void xstate_store(struct xstate *x) {
    asm volatile("xsave64 %0" : "+m"(*x) : "a"((unsigned)xstate_mask), "d"(0));
}

/* A state that libc code may run with. */
UNUSED static void xstate_reset(void) {
    static struct xstate initial;
    *(uint16_t *)initial.bytes = 0x37f;
    *(uint32_t *)(initial.bytes + 24) = 0x1f80;
    *(uint64_t *)(initial.bytes + 512) = 3;
    xstate_load(&initial);
}

UNUSED static void xstate_compare(const char *who, const struct xstate *got, const struct xstate *expected) {
    static const char *parts[] = {"x87", "SSE", "AVX", "", "", "AVX-512 mask", "AVX-512 upper half", "AVX-512 high 16"};
    const unsigned char *g = got->bytes, *e = expected->bytes;
    EXPECT(*(const uint64_t *)(g + 512) == xstate_mask, "%s: components in use: expected %#llx, got %#llx", who,
           (unsigned long long)xstate_mask, *(const unsigned long long *)(g + 512));
    EXPECT(memcmp(g, e, 5) == 0, "%s: x87 control, status, tag: expected %04x %04x %02x, got %04x %04x %02x", who,
           *(const uint16_t *)e, *(const uint16_t *)(e + 2), e[4], *(const uint16_t *)g, *(const uint16_t *)(g + 2), g[4]);
    EXPECT(*(const uint32_t *)(g + 24) == *(const uint32_t *)(e + 24), "%s: mxcsr: expected %#x, got %#x", who,
           *(const uint32_t *)(e + 24), *(const uint32_t *)(g + 24));
    for (int i = 0; i < 8; i++)
        EXPECT(memcmp(g + 32 + i * 16, e + 32 + i * 16, 10) == 0, "%s: x87 register %d differs", who, i);
    for (unsigned i = 1; i < 8; i++) {
        if (!(xstate_mask >> i & 1))
            continue;
        char text[80];
        snprintf(text, sizeof text, "%s: %s", who, parts[i]);
        EXPECT_MEM(text, g + xstate_part[i].offset, e + xstate_part[i].offset, xstate_part[i].size);
    }
}

#endif
