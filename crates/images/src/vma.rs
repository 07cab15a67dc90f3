//! The bits of `vma_entry.status`: what a mapping is.
//!
//! `REGULAR` says that the mapping is an ordinary one, made with mmap(2) and filled at restore; one
//! of the four kinds `FILE_*` and `ANON_*` then says how. `VDSO`, `VVAR` and `VSYSCALL` are the
//! kernel's own.

/// An ordinary mapping.
pub const REGULAR: u32 = 1 << 0;
/// The main stack, grows down.
pub const STACK: u32 = 1 << 1;
/// The fixed vsyscall page.
pub const VSYSCALL: u32 = 1 << 2;
/// The vdso.
pub const VDSO: u32 = 1 << 3;
/// The brk heap.
pub const HEAP: u32 = 1 << 5;
/// A private mapping of a file.
pub const FILE_PRIVATE: u32 = 1 << 6;
/// A shared mapping of a file.
pub const FILE_SHARED: u32 = 1 << 7;
/// A shared mapping without a file: pages are in `pagemap-shmem-S`.
pub const ANON_SHARED: u32 = 1 << 8;
/// A private mapping without a file.
pub const ANON_PRIVATE: u32 = 1 << 9;
/// A System V segment.
pub const SYSVIPC: u32 = 1 << 10;
/// Memory of a packet socket.
pub const SOCKET: u32 = 1 << 11;
/// The data pages before the vdso.
pub const VVAR: u32 = 1 << 12;
/// A ring of io_setup(2).
pub const AIORING: u32 = 1 << 13;
/// A mapping of a memfd.
pub const MEMFD: u32 = 1 << 14;
/// A shadow stack.
pub const SHSTK: u32 = 1 << 15;
/// Not a mapping: a range of guard pages (madvise(2), MADV_GUARD_INSTALL) within one. Such entries
/// stand behind all mappings, with `prot` and `flags` 0.
pub const GUARD: u32 = 1 << 16;
/// The page uprobes are run from.
pub const UPROBES: u32 = 1 << 17;
/// Not to be carried; never valid on disk.
pub const UNSUPPORTED: u32 = 1 << 31;

/// All bits that have a meaning.
pub const KNOWN: u32 = REGULAR
    | STACK
    | VSYSCALL
    | VDSO
    | HEAP
    | FILE_PRIVATE
    | FILE_SHARED
    | ANON_SHARED
    | ANON_PRIVATE
    | SYSVIPC
    | SOCKET
    | VVAR
    | AIORING
    | MEMFD
    | SHSTK
    | GUARD
    | UPROBES;

/// Whether the pages of a mapping with this status are in the task's own pagemap.
///
/// Private mappings and the vdso: yes. The vvar pages and shared memory: no.
#[must_use]
pub const fn has_private_pages(status: u32) -> bool {
    let private = status & (ANON_PRIVATE | FILE_PRIVATE | VDSO) != 0;
    private && status & (VVAR | VSYSCALL) == 0
}
