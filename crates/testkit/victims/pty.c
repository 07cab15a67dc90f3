/* Both ends of a pseudo terminal, with settings and a window size. */
#include "refused.h"
#include <sys/ioctl.h>
#include <termios.h>

static int slave;

static void setup(void) {
    object = obtain("/dev/ptmx", open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));
    MUST(grantpt(object));
    MUST(unlockpt(object));
    slave = obtain("terminal", open(ptsname(object), O_RDWR | O_NOCTTY | O_NONBLOCK));
    struct termios settings;
    MUST(tcgetattr(slave, &settings));
    cfmakeraw(&settings);
    settings.c_cc[VINTR] = 7;
    MUST(tcsetattr(slave, TCSANOW, &settings));
    struct winsize size = {.ws_row = 33, .ws_col = 77};
    MUST(ioctl(object, TIOCSWINSZ, &size));
}

static void check(void) {
    struct termios settings;
    struct winsize size;
    char bytes[32];
    MUST(tcgetattr(slave, &settings));
    EXPECT_EQ("interrupt character", settings.c_cc[VINTR], 7);
    EXPECT_EQ("echo", settings.c_lflag & ECHO, 0);
    MUST(ioctl(slave, TIOCGWINSZ, &size));
    EXPECT_EQ("rows", size.ws_row, 33);
    EXPECT_EQ("columns", size.ws_col, 77);
    EXPECT_EQ("write", write(slave, "fresh", 5), 5);
    EXPECT_EQ("read", read(object, bytes, sizeof bytes), 5);
    EXPECT_EQ("write", write(object, "in", 2), 2);
    for (int i = 0; i < 1000; i++) {
        ssize_t n = read(slave, bytes, sizeof bytes);
        if (n == 2)
            return;
        EXPECT(n == -1 && errno == EAGAIN, "read of the terminal: %zd", n);
        sleep_ns(1000000);
    }
    fail("nothing arrives at the terminal");
}

static void harm(int n) {
    struct winsize size = {.ws_row = 1, .ws_col = 2};
    if (n == 0)
        MUST(ioctl(object, TIOCSWINSZ, &size));
    if (n == 1)
        lose_object(0);
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 2)
