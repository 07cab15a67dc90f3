//! The areas of an address space (VMAs): what each is, and its flags.
//!
//! Read from /proc/PID/smaps (VmFlags of proc(5)). Refused: hugetlbfs, device and io memory,
//! shadow stacks, sealed areas, areas registered with somebody's userfaultfd.

use cryopod_images::{msg, vma};

use crate::proc::maps::Area;

/// Status of an entry that is a guard region within another area (MADV_GUARD_INSTALL, Linux 6.13);
/// such entries follow the areas.
pub const GUARD: u32 = 1 << 16;

/// Page size of x86_64 in bytes.
pub const PAGE: u64 = 4096;

/// Memory protection: may be written.
pub const PROT_WRITE: u32 = 2;
const MAP_SHARED: u32 = 0x01;
const MAP_PRIVATE: u32 = 0x02;
const MAP_ANON: u32 = 0x20;
const MAP_GROWSDOWN: u32 = 0x100;
const MAP_LOCKED: u32 = 0x2000;
const MAP_NORESERVE: u32 = 0x4000;

/// Flags of smaps that are madvise(2) settings, with the advice that sets them.
const ADVICE: [(&[u8; 2], u32); 8] = [
    (b"rr", 1),
    (b"sr", 2),
    (b"dc", 10),
    (b"mg", 12),
    (b"hg", 14),
    (b"nh", 15),
    (b"dd", 16),
    (b"wf", 18),
];

/// Flags of areas the engine does not carry, and what they are.
const REFUSED: [(&[u8; 2], &str); 7] = [
    (b"ht", "memory of hugetlbfs"),
    (b"io", "device memory"),
    (b"pf", "device memory"),
    (b"ss", "a shadow stack"),
    (b"sl", "a sealed memory area (mseal)"),
    (b"um", "memory registered with a userfaultfd"),
    (b"ui", "memory registered with a userfaultfd"),
];

/// What backs an area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Private memory of its own.
    Anonymous,
    /// A file, by the id of its entry in the image of files.
    File(u32),
    /// Shared memory, of a memfd or without a name: the id of the file entry.
    Memfd(u32),
    /// The kernel's vDSO, its data pages, or the vsyscall page.
    Kernel,
}

/// What kind of file an area maps, before the file is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No file.
    Anonymous,
    /// Shared memory made by mmap(MAP_SHARED | MAP_ANONYMOUS).
    SharedAnonymous,
    /// A memfd.
    Memfd,
    /// A System V segment.
    SystemV,
    /// An ordinary file.
    File,
    /// The kernel's own.
    Kernel,
}

/// Classifies an area by its name.
///
/// # Errors
/// What it is, when the engine does not carry it.
pub fn classify(area: &Area) -> Result<Kind, String> {
    // The kernel's own pages look like device memory.
    if matches!(area.special(), Some("[vdso]" | "[vvar]" | "[vvar_vclock]" | "[vsyscall]")) {
        return Ok(Kind::Kernel);
    }
    for (flag, what) in REFUSED {
        if area.has(flag) {
            return Err(format!("{what} at {:x}-{:x}", area.start, area.end));
        }
    }
    let name = area.path.to_string_lossy();
    Ok(match name.as_ref() {
        "" | "[heap]" | "[stack]" => Kind::Anonymous,
        "/dev/zero (deleted)" if area.shared => Kind::SharedAnonymous,
        "/dev/zero" if !area.shared => Kind::File,
        n if n.starts_with("[anon:") => Kind::Anonymous,
        n if n.starts_with("[anon_shmem:") => Kind::SharedAnonymous,
        n if n.starts_with("/memfd:") => Kind::Memfd,
        n if n.starts_with("/SYSV") && n.ends_with(" (deleted)") => Kind::SystemV,
        n if n.starts_with('[') || n.starts_with("anon_inode:") => {
            return Err(format!("{n} at {:x}-{:x}", area.start, area.end));
        }
        _ => Kind::File,
    })
}

/// Status bits, MAP_* flags and backing number of an area.
fn describe(area: &Area, backing: Backing) -> (u32, u32, u64) {
    let mode = if area.shared { MAP_SHARED } else { MAP_PRIVATE };
    match backing {
        Backing::Anonymous => {
            let heap = if area.special() == Some("[heap]") { vma::HEAP } else { 0 };
            (vma::REGULAR | vma::ANON_PRIVATE | heap, mode | MAP_ANON, 0)
        }
        Backing::File(id) => {
            let kind = if area.shared { vma::FILE_SHARED } else { vma::FILE_PRIVATE };
            (vma::REGULAR | kind, mode, u64::from(id))
        }
        Backing::Memfd(id) => {
            let kind = if area.shared { vma::FILE_SHARED } else { vma::FILE_PRIVATE };
            (vma::REGULAR | kind | vma::MEMFD, mode, u64::from(id))
        }
        Backing::Kernel => {
            let kind = match area.special() {
                Some("[vsyscall]") => vma::VSYSCALL,
                Some("[vdso]") => vma::REGULAR | vma::VDSO,
                _ => vma::REGULAR | vma::VVAR,
            };
            (kind | vma::ANON_PRIVATE, mode | MAP_ANON, 0)
        }
    }
}

/// The image's entry for an area. `open_flags` are those of the mapped file.
#[must_use]
pub fn dump(area: &Area, backing: Backing, open_flags: Option<u32>) -> msg::VmaEntry {
    let (status, mut flags, shmid) = describe(area, backing);
    for (flag, bit) in [(b"gd", MAP_GROWSDOWN), (b"lo", MAP_LOCKED), (b"nr", MAP_NORESERVE)] {
        if area.has(flag) {
            flags |= bit;
        }
    }
    let madv = ADVICE
        .iter()
        .filter(|(flag, _)| area.has(flag))
        .fold(0u64, |mask, (_, advice)| mask | 1 << advice);
    msg::VmaEntry {
        start: area.start,
        end: area.end,
        // For memory without a file the kernel shows an offset that means nothing.
        pgoff: match backing {
            Backing::File(_) | Backing::Memfd(_) => area.offset,
            _ => 0,
        },
        shmid,
        prot: area.prot,
        flags,
        status,
        fd: -1,
        madv: (madv != 0).then_some(madv),
        fdflags: open_flags,
        // The kernel counts what is, or once was, private and writable.
        accounted: (!area.shared && area.prot & PROT_WRITE == 0 && area.has(b"ac")).then_some(true),
        locked_on_fault: area.has(b"lf").then_some(true),
    }
}

/// The entry of a guard region.
#[must_use]
pub fn guard(start: u64, end: u64) -> msg::VmaEntry {
    msg::VmaEntry { start, end, status: GUARD, fd: -1, ..Default::default() }
}

/// Joins the kernel's data areas before the vDSO, which newer kernels show as two, into the one
/// that the image has.
pub fn join_vvar(entries: &mut Vec<msg::VmaEntry>) {
    let mut at = 1;
    while at < entries.len() {
        let joined = entries[at].status & vma::VVAR != 0
            && entries[at - 1].status & vma::VVAR != 0
            && entries[at - 1].end == entries[at].start;
        if joined {
            entries[at - 1].end = entries[at].end;
            entries.remove(at);
        } else {
            at += 1;
        }
    }
}

/// The madvise(2) settings of an entry.
pub fn advice(entry: &msg::VmaEntry) -> impl Iterator<Item = i32> {
    let mask = entry.madv.unwrap_or(0);
    ADVICE.iter().filter(move |(_, a)| mask & (1 << a) != 0).map(|(_, a)| *a as i32)
}

/// mmap(2) flags to make the area with, without MAP_FIXED.
#[must_use]
pub fn mmap_flags(entry: &msg::VmaEntry) -> i32 {
    (entry.flags & (MAP_SHARED | MAP_PRIVATE | MAP_ANON | MAP_GROWSDOWN | MAP_NORESERVE)) as i32
}

/// Whether the area is locked into memory.
#[must_use]
pub fn is_locked(entry: &msg::VmaEntry) -> bool {
    entry.flags & MAP_LOCKED != 0
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn area(path: &str, flags: &[&[u8; 2]]) -> Area {
        Area {
            start: 0x1000,
            end: 0x3000,
            prot: 3,
            shared: false,
            offset: 0,
            dev: 0,
            inode: 0,
            path: PathBuf::from(path),
            flags: flags.iter().map(|f| **f).collect(),
        }
    }

    #[test]
    fn stack_and_advice_are_kept() {
        let entry = dump(&area("[stack]", &[b"gd", b"wf"]), Backing::Anonymous, None);
        assert_eq!(entry.flags & MAP_GROWSDOWN, MAP_GROWSDOWN);
        assert_eq!(advice(&entry).collect::<Vec<_>>(), vec![18]);
    }

    #[test]
    fn what_cannot_be_carried_is_named() {
        assert!(classify(&area("", &[b"ht"])).unwrap_err().contains("hugetlbfs"));
        assert!(classify(&area("anon_inode:[io_uring]", &[])).unwrap_err().contains("io_uring"));
        assert_eq!(classify(&area("/bin/x", &[])), Ok(Kind::File));
    }

    #[test]
    fn two_data_areas_become_one() {
        let mut a = area("[vvar]", &[]);
        let mut entries = vec![dump(&a, Backing::Kernel, None)];
        (a.start, a.end) = (0x3000, 0x5000);
        entries.push(dump(&a, Backing::Kernel, None));
        join_vvar(&mut entries);
        assert_eq!((entries.len(), entries[0].end), (1, 0x5000));
    }
}
