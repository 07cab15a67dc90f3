/* Memory of memfd_secret(2), which not even the kernel reads for another process. */
#include "refused.h"

#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif

static unsigned char *secret;

static void setup(void) {
    object = obtain("memfd_secret", syscall(SYS_memfd_secret, O_CLOEXEC));
    MUST(ftruncate(object, 8192));
    secret = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, object, 0);
    if (secret == MAP_FAILED)
        skip("mmap of secret memory: %s", strerror(errno));
    pattern_fill(secret, 8192, 8);
}

static void check(void) { pattern_check("secret memory", secret, 8192, 8); }

static void harm(int n) {
    (void)n;
    secret[5] ^= 1;
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 1)
