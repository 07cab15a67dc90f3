/* A System V shared memory segment, marked for removal, attached twice. */
#include "refused.h"
#include <sys/ipc.h>
#include <sys/shm.h>

static unsigned char *first, *second;

static void setup(void) {
    int id = obtain("shmget", shmget(IPC_PRIVATE, 65536, IPC_CREAT | 0600));
    first = shmat(id, NULL, 0);
    second = shmat(id, NULL, SHM_RDONLY);
    MUST(shmctl(id, IPC_RMID, NULL)); /* lasts as long as it is attached */
    EXPECT(first != (void *)-1 && second != (void *)-1, "shmat: %s", strerror(errno));
    pattern_fill(first, 65536, 15);
}

static void check(void) {
    pattern_check("segment", second, 65536, 15);
    first[77] = 1;
    EXPECT_EQ("byte seen by the other attachment", second[77], 1);
}

static void harm(int n) {
    (void)n;
    first[0] ^= 1;
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 1)
