// cflags: -pthread
/* Threads as Go's runtime has them: running on small stacks in the heap, a few KiB with other data right below, signal
 * handlers on an alternate stack, preempted by signals all the time. Not a byte below the stack pointer (but the red
 * zone) may ever be written by anybody else. */
#include "victim.h"

enum { THREADS = 3, STACK = 4096 };
struct routine {
    _Alignas(64) unsigned char below[8192];
    unsigned char stack[STACK];
    unsigned char above[512];
    _Atomic uint64_t rounds;
    _Atomic int preempted;
    pthread_t thread;
    pid_t tid;
};
static struct routine *routines;
static _Atomic int up, stop;
static unsigned char *alternate;
static __thread struct routine *current;

/* Switches to the stack whose top is given, counts and, with a timespec, sleeps until *stop, switches back. */
void run_small(unsigned char *top, _Atomic uint64_t *rounds, _Atomic int *stop_flag, const struct timespec *nap);
asm(".pushsection .text\n"
    ".type run_small, @function\n"
    "run_small:\n\t"
    "push %rbx\n\tpush %rbp\n\tpush %r12\n\tpush %r13\n\tpush %r14\n\t"
    "mov %rsp, %rbx\n\t"
    "mov %rdi, %rsp\n\t"
    "mov %rsi, %r12\n\tmov %rdx, %r13\n\tmov %rcx, %r14\n"
    "1:\tlock incq (%r12)\n\t"
    "push %r12\n\tpush %r13\n\t"
    "test %r14, %r14\n\t"
    "jz 2f\n\t"
    "mov %r14, %rdi\n\txor %esi, %esi\n\tmov $35, %eax\n\tsyscall\n"
    "2:\tpause\n\t"
    "pop %rax\n\tcmp %rax, %r13\n\tjne 3f\n\t"
    "pop %rax\n\tcmp %rax, %r12\n\tjne 3f\n\t"
    "cmpl $0, (%r13)\n\t"
    "je 1b\n\t"
    "mov %rbx, %rsp\n\t"
    "pop %r14\n\tpop %r13\n\tpop %r12\n\tpop %rbp\n\tpop %rbx\n\t"
    "ret\n"
    "3:\tud2\n"
    ".popsection\n");

static void on_preempt(int signal) {
    (void)signal;
    atomic_fetch_add(&current->preempted, 1);
}

static void *run(void *argument) {
    struct routine *self = argument;
    int n = (int)(self - routines);
    struct timespec nap = {0, 700000};
    current = self;
    stack_t stack = {.ss_sp = alternate + n * 65536, .ss_size = 65536};
    MUST(sigaltstack(&stack, NULL));
    self->tid = (pid_t)syscall(SYS_gettid);
    atomic_fetch_add(&up, 1);
    run_small(self->stack + STACK - 64, &self->rounds, &stop, n ? &nap : NULL);
    stack_t now;
    MUST(sigaltstack(NULL, &now));
    EXPECT(now.ss_sp == stack.ss_sp, "thread %d: alternate stack moved", n);
    return NULL;
}

static void preempt(void) {
    for (int n = 0; n < THREADS; n++)
        MUST(syscall(SYS_tgkill, getpid(), routines[n].tid, SIGURG));
}

static void setup(void) {
    struct sigaction action = {.sa_handler = on_preempt, .sa_flags = SA_ONSTACK | SA_RESTART};
    sigfillset(&action.sa_mask);
    MUST(sigaction(SIGURG, &action, NULL));
    routines = mmap(NULL, THREADS * sizeof *routines + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    alternate = mmap(NULL, THREADS * 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int n = 0; n < THREADS; n++) {
        pattern_fill(routines[n].below, sizeof routines[n].below, 900 + (uint64_t)n);
        pattern_fill(routines[n].stack, STACK, 910 + (uint64_t)n);
        pattern_fill(routines[n].above, sizeof routines[n].above, 920 + (uint64_t)n);
        MUST0(pthread_create(&routines[n].thread, NULL, run, &routines[n]));
    }
    await_flag("threads", &up, THREADS);
    while (!routines[THREADS - 1].rounds)
        sleep_ns(1000000);
}

static void work(void) {
    while (!gone()) {
        preempt();
        sleep_ns(1000000);
    }
}

static void check(void) {
    uint64_t before[THREADS];
    for (int n = 0; n < THREADS; n++)
        before[n] = routines[n].rounds;
    for (int n = 0; n < THREADS; n++) {
        for (int i = 0; routines[n].rounds < before[n] + 3; i++) {
            EXPECT(i < 5000, "thread %d does not run", n);
            sleep_ns(1000000);
        }
        int preempted = routines[n].preempted;
        preempt();
        await_flag("preemption", &routines[n].preempted, preempted + 1);
    }
    atomic_store(&stop, 1);
    for (int n = 0; n < THREADS; n++) {
        MUST0(pthread_join(routines[n].thread, NULL));
        pattern_check("data below a small stack", routines[n].below, sizeof routines[n].below, 900 + (uint64_t)n);
        /* 16 bytes are pushed, 128 more are the red zone */
        pattern_check("unused part of a small stack", routines[n].stack, STACK - 64 - 16 - 128, 910 + (uint64_t)n);
        pattern_check("data above a small stack", routines[n].above, sizeof routines[n].above, 920 + (uint64_t)n);
    }
}

static void harm(int n) {
    if (n == 0)
        routines[1].stack[STACK - 400] ^= 1;
    if (n == 1)
        routines[0].below[8191] ^= 1;
}

VICTIM(.setup = setup, .work = work, .check = check, .harm = harm, .harms = 2)
