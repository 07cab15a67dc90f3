//! The kernel: system calls, ioctls, ptrace requests and netlink dumps.
