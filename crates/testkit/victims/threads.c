// cflags: -pthread
// variants: static
/* Eight threads, each with its own registers, thread-local data, name, signal mask, alternate stack and kernel wait:
 * three hold values in every free register while looping in hand-written code, two sleeping and one spinning; one counts, two
 * wait in a futex, two sleep. Joining them shows that the kernel still
 * clears and wakes the word it was given for that. */
#include "victim.h"
#include <asm/prctl.h>

enum { THREADS = 8, REGISTERS = 9 };

struct thread {
    pthread_t handle;
    pid_t tid;
    sigset_t mask;
    stack_t stack;
    char name[16];
    unsigned long fs;
    uint64_t registers[REGISTERS];
    _Atomic uint64_t rounds;
    void *seen_tls;
};

static struct thread threads[THREADS];
static _Atomic int up, go, woken;
static __thread uint64_t tls_value = 0x1234;
static __thread unsigned char tls_block[5000];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static bool condition_go;
static _Atomic int futex_word;
static pid_t main_tid;
static int harm_thread = -1;

/* Loads known values into the registers that a system call keeps, loops until `go`, and stores what it finds. With a
 * timespec it sleeps in the kernel each round; without, it spins in user space. */
void hold_registers(uint64_t *io, const struct timespec *sleep, _Atomic int *go_flag);
asm(".pushsection .text\n"
    ".type hold_registers, @function\n"
    "hold_registers:\n\t"
    "push %rbx\n\tpush %rbp\n\tpush %r12\n\tpush %r13\n\tpush %r14\n\tpush %r15\n\t"
    "push %rdx\n\tpush %rsi\n\tpush %rdi\n\t" /* 16(rsp) go, 8(rsp) sleep, 0(rsp) io */
    "mov 0(%rdi), %rbx\n\t"
    "mov 8(%rdi), %rbp\n\t"
    "mov 16(%rdi), %r8\n\t"
    "mov 24(%rdi), %r9\n\t"
    "mov 32(%rdi), %r10\n\t"
    "mov 40(%rdi), %r12\n\t"
    "mov 48(%rdi), %r13\n\t"
    "mov 56(%rdi), %r14\n\t"
    "mov 64(%rdi), %r15\n\t"
    "1: mov 8(%rsp), %rdi\n\t"
    "test %rdi, %rdi\n\t"
    "jz 2f\n\t"
    "xor %esi, %esi\n\t"
    "mov $35, %eax\n\t" /* nanosleep */
    "syscall\n\t"
    "2: pause\n\t"
    "mov 16(%rsp), %rax\n\t"
    "cmpl $0, (%rax)\n\t"
    "je 1b\n\t"
    "mov 0(%rsp), %rax\n\t"
    "mov %rbx, 0(%rax)\n\t"
    "mov %rbp, 8(%rax)\n\t"
    "mov %r8, 16(%rax)\n\t"
    "mov %r9, 24(%rax)\n\t"
    "mov %r10, 32(%rax)\n\t"
    "mov %r12, 40(%rax)\n\t"
    "mov %r13, 48(%rax)\n\t"
    "mov %r14, 56(%rax)\n\t"
    "mov %r15, 64(%rax)\n\t"
    "pop %rdi\n\tpop %rsi\n\tpop %rdx\n\t"
    "pop %r15\n\tpop %r14\n\tpop %r13\n\tpop %r12\n\tpop %rbp\n\tpop %rbx\n\t"
    "ret\n"
    ".popsection\n");

static uint64_t register_value(int thread, int which) {
    return 0xa5a5000000000000ull + (uint64_t)thread * 0x100000001ull + (uint64_t)which * 0x1111;
}

static unsigned long fs_base(void) {
    unsigned long base = 0;
    MUST(syscall(SYS_arch_prctl, ARCH_GET_FS, &base));
    return base;
}

static void *run(void *argument) {
    struct thread *self = argument;
    int n = (int)(self - threads);
    self->tid = (pid_t)syscall(SYS_gettid);
    self->fs = fs_base();
    tls_value = 0xc0ffee00ull + (uint64_t)n;
    pattern_fill(tls_block, sizeof tls_block, 100 + (uint64_t)n);
    self->seen_tls = &tls_value;
    snprintf(self->name, sizeof self->name, "victim-thread%d", n);
    MUST(prctl(PR_SET_NAME, self->name));
    sigemptyset(&self->mask);
    sigaddset(&self->mask, SIGUSR1);
    sigaddset(&self->mask, SIGRTMIN + n);
    MUST0(pthread_sigmask(SIG_SETMASK, &self->mask, NULL));
    self->stack.ss_sp = malloc(32768);
    self->stack.ss_size = 16384 + 1024 * (size_t)n;
    self->stack.ss_flags = 0;
    if (n % 3 != 0)
        MUST(sigaltstack(&self->stack, NULL));
    for (int i = 0; i < REGISTERS; i++)
        self->registers[i] = register_value(n, i);
    atomic_fetch_add(&up, 1);

    struct timespec nap = {0, 1500000};
    switch (n) {
    case 0:
    case 1: hold_registers(self->registers, &nap, &go); break;
    case 2: hold_registers(self->registers, NULL, &go); break;
    case 3:
        /* yields: on a small machine a spinning thread starves the tests beside it */
        while (!atomic_load(&go)) {
            atomic_fetch_add(&self->rounds, 1);
            sched_yield();
            sleep_ns(100000);
        }
        break;
    case 4:
        MUST0(pthread_mutex_lock(&mutex));
        while (!condition_go)
            MUST0(pthread_cond_wait(&condition, &mutex));
        MUST0(pthread_mutex_unlock(&mutex));
        break;
    case 5:
        while (atomic_load(&futex_word) == 0) {
            long answer = syscall(SYS_futex, &futex_word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
            if (answer == -1 && errno != EAGAIN)
                fail("futex wait without timeout: expected to be woken, got %s", strerror(errno));
        }
        break;
    default:
        while (!atomic_load(&go))
            sleep_ns(3000000);
    }

    await_flag("go", &go, 1);
    if (harm_thread == 10 && n == 6)
        MUST(prctl(PR_SET_NAME, "other"));
    if (harm_thread == 11 && n == 5)
        MUST0(pthread_sigmask(SIG_BLOCK, &(sigset_t){{1 << (SIGHUP - 1)}}, NULL));
    if (harm_thread == 12 && n == 4)
        tls_block[4999] ^= 1;
    if (harm_thread == 13 && n == 7)
        MUST(sigaltstack(&(stack_t){.ss_flags = SS_DISABLE}, NULL));
    if (harm_thread == 14 && n == 1)
        self->registers[3] ^= 1;

    char name[64], what[64];
    snprintf(what, sizeof what, "thread %d", n);
    EXPECT_EQ(what, syscall(SYS_gettid), self->tid);
    EXPECT_EQ("fs base", fs_base(), self->fs);
    EXPECT(self->seen_tls == &tls_value, "%s: thread-local data moved", what);
    EXPECT_EQ("thread-local value", tls_value, 0xc0ffee00ull + (uint64_t)n);
    pattern_check("thread-local block", tls_block, sizeof tls_block, 100 + (uint64_t)n);
    MUST(prctl(PR_GET_NAME, name));
    EXPECT_STR("thread name", name, self->name);
    sigset_t mask;
    MUST0(pthread_sigmask(SIG_SETMASK, NULL, &mask));
    for (int s = 1; s < 65; s++)
        EXPECT(sigismember(&mask, s) == sigismember(&self->mask, s), "%s: mask of signal %d: expected %d, got %d", what,
               s, sigismember(&self->mask, s), sigismember(&mask, s));
    stack_t stack;
    MUST(sigaltstack(NULL, &stack));
    if (n % 3 != 0) {
        EXPECT(stack.ss_sp == self->stack.ss_sp, "%s: alternate stack: expected %p, got %p", what, self->stack.ss_sp,
               stack.ss_sp);
        EXPECT_EQ("alternate stack size", stack.ss_size, self->stack.ss_size);
        EXPECT_EQ("alternate stack flags", stack.ss_flags, 0);
    } else {
        EXPECT_EQ("alternate stack flags", stack.ss_flags, SS_DISABLE);
    }
    for (int i = 0; i < REGISTERS; i++)
        EXPECT(self->registers[i] == register_value(n, i), "%s: register %d: expected %#llx, got %#llx", what, i,
               (unsigned long long)register_value(n, i), (unsigned long long)self->registers[i]);
    atomic_fetch_add(&woken, 1);
    return (void *)(uintptr_t)(n * 3 + 1);
}

static void setup(void) {
    main_tid = (pid_t)syscall(SYS_gettid);
    for (int i = 0; i < THREADS; i++)
        MUST0(pthread_create(&threads[i].handle, NULL, run, &threads[i]));
    await_flag("threads", &up, THREADS);
}

static void check(void) {
    char names[64];
    int tasks = 0;
    for (int i = 0; i < THREADS; i++) {
        snprintf(names, sizeof names, "/proc/self/task/%d", threads[i].tid);
        tasks += access(names, F_OK) == 0;
    }
    EXPECT_EQ("threads alive", tasks, THREADS);
    EXPECT_EQ("thread id of the leader", syscall(SYS_gettid), main_tid);
    EXPECT_EQ("thread-local value of the leader", tls_value, 0x1234);
    uint64_t before = atomic_load(&threads[3].rounds);
    for (int i = 0; atomic_load(&threads[3].rounds) == before; i++) {
        EXPECT(i < 10000, "thread 3 does not run");
        sleep_ns(1000000);
    }
    MUST0(pthread_mutex_lock(&mutex));
    condition_go = true;
    MUST0(pthread_cond_signal(&condition));
    MUST0(pthread_mutex_unlock(&mutex));
    /* A restored waiter makes its call anew: it is to be back in it, however busy the machine is. */
    char path[64], call[128] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", threads[5].tid);
    for (int i = 0; i < 10000 && strncmp(call, "202 ", 4); i++) {
        sleep_ns(1000000);
        memset(call, 0, sizeof call);
        slurp(path, call, sizeof call - 1);
    }
    atomic_store(&futex_word, 1);
    EXPECT_EQ("futex waiters woken", syscall(SYS_futex, &futex_word, FUTEX_WAKE_PRIVATE, 10, NULL, NULL, 0), 1);
    atomic_store(&go, 1);
    for (int i = 0; i < THREADS; i++) {
        void *answer;
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += 10;
        MUST0(pthread_timedjoin_np(threads[i].handle, &answer, &until));
        EXPECT_EQ("thread's answer", (uintptr_t)answer, i * 3 + 1);
    }
    EXPECT_EQ("threads that checked", atomic_load(&woken), THREADS);
}

static void harm(int n) {
    harm_thread = n + 10;
    if (n == 5)
        threads[3].tid = 1;
    if (n == 6)
        tls_value = 0;
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 7)
