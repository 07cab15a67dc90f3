/* Openings shared by a parent and a child: made before the fork, passed over a socket, renumbered, closed on one side;
 * and one of the same file that is not shared. Positions and flags move together where shared and only there. */
#include "talk.h"
#include <linux/kcmp.h>
#include <sys/socket.h>

static int inherited, passed, own, renumbered = 700;
static pid_t child;
static int harmed = -1;

static bool same_opening(int fd, pid_t pid, int other) {
    long answer = syscall(SYS_kcmp, getpid(), pid, KCMP_FILE, fd, other);
    EXPECT(answer >= 0, "kcmp: %s", strerror(errno));
    return answer == 0;
}

static void pass(int socket, int fd) {
    char byte = 'x', space[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec io = {&byte, 1};
    struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(head), &fd, sizeof fd);
    MUST(sendmsg(socket, &message, 0));
}

static int take(int socket) {
    char byte, space[CMSG_SPACE(sizeof(int))];
    struct iovec io = {&byte, 1};
    struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    MUST(recvmsg(socket, &message, 0));
    int fd;
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return fd;
}

static void child_main(int socket) {
    MUST(dup2(inherited, renumbered));
    close(inherited);
    int mine = (int)MUST(open("b", O_RDWR));
    MUST(lseek(mine, 500, SEEK_SET));
    pass(socket, mine);
    int alone = (int)MUST(open("a", O_RDONLY));
    MUST(lseek(alone, 33, SEEK_SET));
    close(socket);
    talk->values[0] = mine;
    talk->values[1] = alone;
    atomic_store(&talk->up, 1);
    talk_wait(1);
    EXPECT_EQ("child: position moved by the parent", lseek(renumbered, 0, SEEK_CUR), 4000);
    EXPECT_EQ("child: position of the passed one, moved by the parent", lseek(mine, 0, SEEK_CUR), 600);
    EXPECT_EQ("child: position of its own", lseek(alone, 0, SEEK_CUR), 33);
    EXPECT(fcntl(renumbered, F_GETFL) & O_APPEND, "child: flag set by the parent is not there");
    EXPECT_EQ("child: descriptors", count_fds(), victim_fds + 3);
    MUST(lseek(renumbered, 7000, SEEK_SET));
    atomic_store(&talk->done, 1);
    _exit(0);
}

static void setup(void) {
    talk_init();
    int ends[2];
    unsigned char bytes[8000];
    pattern_fill(bytes, sizeof bytes, 1);
    for (const char *name = "a\0b\0"; *name; name += 2) {
        int fd = (int)MUST(open(name, O_RDWR | O_CREAT, 0644));
        EXPECT_EQ("write", write(fd, bytes, sizeof bytes), sizeof bytes);
        close(fd);
    }
    inherited = (int)MUST(open("a", O_RDWR));
    MUST(lseek(inherited, 3000, SEEK_SET));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    child = (pid_t)MUST(fork());
    if (child == 0) {
        close(ends[0]);
        child_main(ends[1]);
    }
    close(ends[1]);
    passed = take(ends[0]);
    close(ends[0]);
    own = (int)MUST(open("a", O_RDWR));
    MUST(lseek(own, 3000, SEEK_SET));
    await_flag("child", &talk->up, 1);
}

static void check(void) {
    EXPECT(same_opening(inherited, child, renumbered), "the inherited opening is not shared any more");
    EXPECT(same_opening(passed, child, (int)talk->values[0]), "the passed opening is not shared any more");
    EXPECT(!same_opening(own, child, renumbered), "an opening is shared that was not");
    EXPECT_EQ("position", lseek(inherited, 0, SEEK_CUR), 3000);
    EXPECT_EQ("position of the passed one", lseek(passed, 0, SEEK_CUR), 500);
    MUST(lseek(inherited, 4000, SEEK_SET));
    MUST(lseek(passed, 100, SEEK_CUR));
    MUST(fcntl(inherited, F_SETFL, O_APPEND));
    atomic_store(&talk->stage, 1);
    await_flag("child", &talk->done, 1);
    EXPECT_EQ("position moved by the child", lseek(inherited, 0, SEEK_CUR), 7000);
    EXPECT_EQ("position of the one not shared", lseek(own, 0, SEEK_CUR), 3000);
    reap_ok("child", child);
}

static void harm(int n) {
    harmed = n;
    int fd;
    switch (n) {
    case 0: fd = open("a", O_RDWR); lseek(fd, 3000, SEEK_SET); dup2(fd, inherited); close(fd); break;
    case 1: dup2(inherited, own); break;
    case 2: fd = open("b", O_RDWR); lseek(fd, 500, SEEK_SET); dup2(fd, passed); close(fd); break;
    case 3: lseek(passed, 501, SEEK_SET); break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 4)
