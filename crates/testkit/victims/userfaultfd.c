// cflags: -pthread
/* A program that serves its own page faults through userfaultfd, with a page already filled and one to come. */
#include "refused.h"
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

static unsigned char *area, *source;
static _Atomic int filled;

static void *serve(void *unused) {
    (void)unused;
    struct uffd_msg message;
    while (read(object, &message, sizeof message) == sizeof message) {
        unsigned long page = message.arg.pagefault.address & ~4095ul;
        pattern_fill(source, 4096, (page - (unsigned long)area) / 4096);
        struct uffdio_copy copy = {.dst = page, .src = (unsigned long)source, .len = 4096};
        MUST(ioctl(object, UFFDIO_COPY, &copy));
        atomic_fetch_add(&filled, 1);
    }
    return NULL;
}

static void setup(void) {
    object = obtain("userfaultfd", syscall(SYS_userfaultfd, O_CLOEXEC));
    struct uffdio_api api = {.api = UFFD_API};
    MUST(ioctl(object, UFFDIO_API, &api));
    area = mmap(NULL, 8 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    source = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register range = {.range = {(unsigned long)area, 8 * 4096}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    MUST(ioctl(object, UFFDIO_REGISTER, &range));
    pthread_t thread;
    MUST0(pthread_create(&thread, NULL, serve, NULL));
    EXPECT_EQ("first page", area[5], pattern_byte(0, 5));
    await_flag("pages filled", &filled, 1);
}

static void check(void) {
    pattern_check("page filled before", area, 4096, 0);
    EXPECT_EQ("pages filled", filled, 1);
    pattern_check("page filled now", area + 3 * 4096, 4096, 3);
    await_flag("pages filled", &filled, 2);
}

static void harm(int n) {
    (void)n;
    filled = 5;
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 1)
