/* A BPF array with numbers in it. */
#include "refused.h"
#include <linux/bpf.h>

static long bpf(int command, union bpf_attr *attr) { return syscall(SYS_bpf, command, attr, sizeof *attr); }

static void setup(void) {
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.map_type = BPF_MAP_TYPE_ARRAY;
    attr.key_size = 4;
    attr.value_size = 8;
    attr.max_entries = 4;
    object = obtain("bpf map", bpf(BPF_MAP_CREATE, &attr));
    for (uint32_t key = 0; key < 4; key++) {
        uint64_t value = key * 1000 + 7;
        memset(&attr, 0, sizeof attr);
        attr.map_fd = (unsigned)object;
        attr.key = (unsigned long)&key;
        attr.value = (unsigned long)&value;
        MUST(bpf(BPF_MAP_UPDATE_ELEM, &attr));
    }
}

static void check(void) {
    for (uint32_t key = 0; key < 4; key++) {
        uint64_t value = 0;
        union bpf_attr attr;
        memset(&attr, 0, sizeof attr);
        attr.map_fd = (unsigned)object;
        attr.key = (unsigned long)&key;
        attr.value = (unsigned long)&value;
        MUST(bpf(BPF_MAP_LOOKUP_ELEM, &attr));
        EXPECT_EQ("value", value, key * 1000 + 7);
    }
}

VICTIM(.setup = setup, .check = check, .harm = lose_object, .harms = 1)
