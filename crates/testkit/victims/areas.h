/* What /proc/self/smaps says of the area that holds an address. */
#ifndef AREAS_H
#define AREAS_H
#include "victim.h"

struct area {
    unsigned long start, end, rss_kib, offset;
    char permissions[5];
    char name[256];
    char flags[256];
};

UNUSED static struct area area_of(const void *address) {
    FILE *file = fopen("/proc/self/smaps", "re");
    EXPECT(file, "smaps: %s", strerror(errno));
    char line[1024];
    struct area area;
    bool inside = false;
    while (fgets(line, sizeof line, file)) {
        struct area next;
        memset(&next, 0, sizeof next);
        int n = 0;
        if (sscanf(line, "%lx-%lx %4s %lx %*s %*s%n", &next.start, &next.end, next.permissions, &next.offset, &n) >= 4 && n) {
            if (inside)
                break;
            sscanf(line + n, " %255[^\n]", next.name);
            inside = (unsigned long)address >= next.start && (unsigned long)address < next.end;
            area = next;
        } else if (inside && strncmp(line, "Rss:", 4) == 0) {
            sscanf(line, "Rss: %lu", &area.rss_kib);
        } else if (inside && strncmp(line, "VmFlags:", 8) == 0) {
            sscanf(line, "VmFlags: %255[^\n]", area.flags);
        }
    }
    fclose(file);
    EXPECT(inside, "no area holds %p", address);
    return area;
}

UNUSED static bool has_flag(const struct area *area, const char *flag) {
    char padded[300], wanted[8];
    snprintf(padded, sizeof padded, " %s ", area->flags);
    snprintf(wanted, sizeof wanted, " %s ", flag);
    return strstr(padded, wanted) != NULL;
}

/* Whether the two have or lack each of these two-letter flags alike. */
UNUSED static void same_flags(const char *what, const struct area *before, const struct area *after, const char *list) {
    char flag[3] = {0};
    for (; *list; list += list[2] ? 3 : 2) {
        memcpy(flag, list, 2);
        EXPECT(has_flag(before, flag) == has_flag(after, flag), "%s: VmFlags %s: before \"%s\", now \"%s\"", what, flag,
               before->flags, after->flags);
    }
}

#endif
