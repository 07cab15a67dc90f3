// cflags: -pthread
/* Restartable sequences: two threads add one to a counter of the cpu they run on, inside a sequence that ends with the
 * store, and pause in between; were one continued in the middle after another ran on the same cpu, an addition would be
 * lost. At the end the registration is as libc made it: the cpu is kept up to date, and only the right address, length
 * and signature take it off. */
#include "victim.h"
#include <linux/rseq.h>

extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned int __rseq_size __attribute__((weak));
#define SIGNATURE 0x53053053

static pthread_t threads[2];
static _Atomic int up, stop;
static uint64_t added[2];
static volatile uint64_t aborts[2];
static struct {
    _Alignas(64) volatile uint64_t value;
} counters[1024];
static int harmed = -1;
static unsigned length; /* as libc registered it */

static struct rseq *area(void) {
    return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

/* One addition; false when the kernel sent it to its abort handler. */
static bool add_one(struct rseq *self) {
    asm goto(".pushsection __rseq_victim, \"aw\"\n\t"
             ".balign 32\n\t"
             "3: .long 0, 0\n\t"
             ".quad 1f, 2f - 1f, 4f\n\t"
             ".popsection\n\t"
             "lea 3b(%%rip), %%rax\n\t"
             "mov %%rax, %c[cs](%[self])\n\t"
             "1: mov %c[cpu](%[self]), %%ecx\n\t"
             "shl $6, %%rcx\n\t"
             "mov (%[counters], %%rcx), %%rdx\n\t"
             "mov $200, %%eax\n\t"
             "5: pause\n\t"
             "dec %%eax\n\t"
             "jnz 5b\n\t"
             "inc %%rdx\n\t"
             "mov %%rdx, (%[counters], %%rcx)\n\t"
             "2:\n\t"
             ".pushsection .text.unlikely, \"ax\"\n\t"
             ".byte 0x0f, 0xb9, 0x3d\n\t"
             ".long 0x53053053\n\t"
             "4: jmp %l[aborted]\n\t"
             ".popsection\n\t"
             :
             : [self] "r"(self), [counters] "r"(counters), [cs] "i"(offsetof(struct rseq, rseq_cs)),
               [cpu] "i"(offsetof(struct rseq, cpu_id))
             : "rax", "rcx", "rdx", "memory", "cc"
             : aborted);
    return true;
aborted:
    return false;
}

static void check_registration(const char *who) {
    struct rseq *self = area();
    /* of another address, length or signature it cannot be taken off, nor put on twice */
    EXPECT_ERRNO(syscall(SYS_rseq, self, length, 1 /* unregister */, SIGNATURE + 1), EPERM);
    errno = 0;
    long again = syscall(SYS_rseq, self, length, 0, SIGNATURE);
    EXPECT(again == -1 && errno == EBUSY, "%s: registering again: expected EBUSY, got %ld %s", who, again, strerror(errno));
    cpu_set_t all, one;
    MUST(sched_getaffinity(0, sizeof all, &all));
    for (int cpu = 0; cpu < 64; cpu++) {
        if (!CPU_ISSET(cpu, &all))
            continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        MUST(sched_setaffinity(0, sizeof one, &one));
        EXPECT_EQ(who, *(volatile uint32_t *)&self->cpu_id, cpu);
    }
    MUST(sched_setaffinity(0, sizeof all, &all));
    MUST(syscall(SYS_rseq, self, length, 1, SIGNATURE));
    if (harmed == 2)
        return;
    MUST(syscall(SYS_rseq, self, length, 0, SIGNATURE));
}

static void *run(void *argument) {
    int n = (int)(intptr_t)argument;
    struct rseq *self = area();
    atomic_fetch_add(&up, 1);
    while (!atomic_load(&stop)) {
        if (add_one(self))
            added[n]++;
        else
            aborts[n]++;
    }
    if (harmed == 0 && n == 1)
        MUST(syscall(SYS_rseq, self, length, 1, SIGNATURE));
    check_registration("thread's cpu");
    return NULL;
}

static void setup(void) {
    if (!&__rseq_size || __rseq_size == 0)
        skip("libc registers no rseq");
    for (length = 32; length < 4096; length++)
        if (syscall(SYS_rseq, area(), length, 0, SIGNATURE) == -1 && errno == EBUSY)
            break;
    EXPECT(length < 4096, "no length fits libc's rseq registration");
    for (int n = 0; n < 2; n++)
        MUST0(pthread_create(&threads[n], NULL, run, (void *)(intptr_t)n));
    await_flag("threads", &up, 2);
}

static void check(void) {
    sleep_ns(20000000);
    atomic_store(&stop, 1);
    uint64_t expected = 0, got = 0;
    for (int n = 0; n < 2; n++) {
        MUST0(pthread_join(threads[n], NULL));
        expected += added[n];
    }
    if (harmed == 1)
        counters[0].value--;
    for (int i = 0; i < 1024; i++)
        got += counters[i].value;
    EXPECT_EQ("additions", got, expected);
    EXPECT(expected > 100, "only %llu additions", (unsigned long long)expected);
    check_registration("leader's cpu");
}

static void harm(int n) {
    harmed = n;
    if (n == 2)
        MUST(syscall(SYS_rseq, area(), length, 1, SIGNATURE));
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 3)
