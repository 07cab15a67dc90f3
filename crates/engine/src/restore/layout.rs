//! Rebuilding an address space: everything goes but the kernel's pages and the engine's own, then
//! the archived areas come.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use cryopod_images::{msg, vma};

use super::load::Body;
use super::transport::Transport;
use crate::areas::{self, PAGE};
use crate::inject::calls::Scratch;
use crate::inject::{Remote, Space};
use crate::lazy::Chunks;
use crate::proc::maps::{self, Area};

/// Highest user address.
const TOP: u64 = 0x7fff_ffff_f000;
/// Lowest address used for the engine's memory.
const BOTTOM: u64 = 0x1_0000;
/// Runs at least this long are read by the task itself, straight into place.
const DIRECT: u64 = 64 * 1024;
/// Most bytes one read(2) moves, page aligned.
const READ_MAX: u64 = 0x7fff_f000;

const PROT_WRITE: u32 = 2;

/// A hole of `len` bytes that neither layout uses.
pub(crate) fn hole(now: &[Area], then: &[msg::VmaEntry], len: u64) -> Option<u64> {
    let mut used: Vec<(u64, u64)> = now
        .iter()
        .map(|a| (a.start, a.end))
        .chain(then.iter().map(|a| (a.start, a.end)))
        .filter(|(start, _)| *start < TOP)
        .collect();
    used.sort_unstable();
    // Stacks grow down: a margin keeps clear of their guard gap (stack_guard_gap, 1 MiB).
    let margin = 2 << 20;
    let mut at = BOTTOM;
    for (start, end) in used {
        if start.saturating_sub(at) >= len + 2 * margin {
            return Some(at + margin);
        }
        at = at.max(end);
    }
    (TOP - at >= len + 2 * margin).then_some(at + margin)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// Unmaps all but the kernel's pages and the engine's memory.
pub(crate) fn clear(remote: &mut Remote, now: &[Area], keep: Scratch) -> io::Result<()> {
    let mut kept: Vec<(u64, u64)> = now
        .iter()
        .filter(|a| matches!(a.special(), Some("[vdso]" | "[vvar]" | "[vvar_vclock]")))
        .map(|a| (a.start, a.end))
        .collect();
    kept.push((keep.at, keep.at + keep.len));
    kept.sort_unstable();
    let mut at = 0;
    for (start, end) in kept {
        if start > at {
            remote.munmap(at, start - at)?;
        }
        at = end;
    }
    remote.munmap(at, TOP - at)
}

/// Moves the vDSO and its data pages to their archived place, and refuses another kernel's.
pub(crate) fn move_kernel_pages(
    body: &Body,
    remote: &mut Remote,
    space: &mut Space,
    now: &[Area],
    parking: u64,
) -> io::Result<()> {
    let find = |bit: u32| body.mm.vmas.iter().find(|a| a.status & bit != 0);
    let Some(vdso) = find(vma::VDSO) else {
        return Err(invalid("the archived process had no vDSO"));
    };
    let ours: Vec<&Area> = now
        .iter()
        .filter(|a| matches!(a.special(), Some("[vdso]" | "[vvar]" | "[vvar_vclock]")))
        .collect();
    let Some(own) = ours.iter().find(|a| a.special() == Some("[vdso]")) else {
        return Err(invalid("this kernel gives no vDSO"));
    };
    same_vdso(body, space, own, vdso)?;
    let data: Vec<&&Area> = ours.iter().filter(|a| a.special() != Some("[vdso]")).collect();
    let mut moves = vec![(own.start, own.len(), vdso.start)];
    if let Some(vvar) = find(vma::VVAR) {
        let len: u64 = data.iter().map(|a| a.len()).sum();
        if len != vvar.end - vvar.start {
            return Err(invalid("the kernel's data pages had another size"));
        }
        let mut to = vvar.start;
        for area in data {
            moves.push((area.start, area.len(), to));
            to += area.len();
        }
    }
    // Everything to a parking place first: the new place may overlap the old one.
    let mut parked = parking;
    for (from, len, _) in &mut moves {
        let by = parked.wrapping_sub(*from) as i64;
        remote.move_mapping(*from, *len, parked)?;
        if *from == own.start {
            space.moved(by);
            remote.follow(space);
        }
        *from = parked;
        parked += *len;
    }
    let vdso_parked = moves[0].0;
    for (from, len, to) in moves {
        remote.move_mapping(from, len, to)?;
        if from == vdso_parked {
            space.moved(to.wrapping_sub(from) as i64);
            remote.follow(space);
        }
    }
    Ok(())
}

/// Room the parking place needs.
pub(crate) fn parking_len(now: &[Area]) -> u64 {
    now.iter()
        .filter(|a| matches!(a.special(), Some("[vdso]" | "[vvar]" | "[vvar_vclock]")))
        .map(Area::len)
        .sum()
}

/// The archived vDSO must be this kernel's, byte for byte: the program may be inside it, and holds
/// addresses of its functions.
fn same_vdso(body: &Body, space: &Space, own: &Area, archived: &msg::VmaEntry) -> io::Result<()> {
    if own.len() != archived.end - archived.start {
        return Err(invalid("the archive's vDSO is of another kernel (its size differs)"));
    }
    for page in (0..own.len()).step_by(PAGE as usize) {
        let Some((file, offset)) = body.memory.page(archived.start + page) else { continue };
        let mut was = vec![0u8; PAGE as usize];
        file.read_exact_at(&mut was, offset)?;
        let mut is = vec![0u8; PAGE as usize];
        space.read(own.start + page, &mut is)?;
        if page + PAGE == own.len() {
            // The tail may hold the engine's stub, or another engine's leavings.
            let tail = is.len() - 64;
            is.truncate(tail);
            was.truncate(tail);
        }
        if was != is {
            return Err(invalid("the archive's vDSO is of another kernel"));
        }
    }
    Ok(())
}

/// Where the memory of an area comes from.
pub(crate) type OpenFile<'a> =
    dyn FnMut(&msg::VmaEntry, &mut Remote, &Space) -> io::Result<(i32, u64)> + 'a;

/// Makes all archived areas with what `open` gives as their file.
pub(crate) fn map(
    body: &Body,
    remote: &mut Remote,
    space: &Space,
    open: &mut OpenFile<'_>,
) -> io::Result<()> {
    for area in body.mm.vmas.iter().filter(|a| is_ours(a)) {
        let flags = areas::mmap_flags(area) | libc::MAP_FIXED_NOREPLACE;
        let len = area.end - area.start;
        let (fd, flags, offset) = if area.status & vma::ANON_PRIVATE != 0 {
            (-1, flags, 0)
        } else {
            let (fd, offset) = open(area, remote, space)?;
            (fd, flags & !libc::MAP_ANONYMOUS, offset)
        };
        // With its own protection at once, but for one that was writable before: a private mapping
        // that was written to stays accounted for. Pages are written by ptrace's right where it is
        // not writable.
        let accounted = area.accounted == Some(true);
        let prot = if accounted { area.prot | areas::PROT_WRITE } else { area.prot };
        remote.mmap(area.start, len, prot as i32, flags, fd, offset)?;
        if fd >= 0 {
            remote.close(fd)?;
        }
    }
    Ok(())
}

fn is_ours(area: &msg::VmaEntry) -> bool {
    area.status & vma::REGULAR != 0 && area.status & (vma::VDSO | vma::VVAR | vma::VSYSCALL) == 0
}

/// Fills the areas with the archived pages, but for those in `late`, ascending ranges of whole areas.
pub(crate) fn fill(
    body: &Body,
    late: &[(u64, u64)],
    remote: &mut Remote,
    space: &Space,
    scratch: Scratch,
    transport: &Transport,
) -> io::Result<()> {
    // The kernel's own pages are there already; a run may go on behind them.
    let vdso = body.mm.vmas.iter().filter(|a| a.status & vma::VDSO != 0).map(|a| (a.start, a.end));
    let mut skipped: Vec<(u64, u64)> = late.iter().copied().chain(vdso).collect();
    skipped.sort_unstable();
    let mut areas: Vec<_> = body.mm.vmas.iter().filter(|a| a.status & areas::GUARD == 0).collect();
    areas.sort_unstable_by_key(|a| a.start);
    // Pages and areas both ascend.
    let (mut area_at, mut skip_at) = (0, 0);
    // The files of pages, as the task has them.
    let mut files: Vec<(*const File, i32)> = Vec::new();
    let mut buf = vec![0u8; DIRECT as usize];
    let mut chunks = Chunks::default();
    for extent in &body.memory.extents {
        let file = Arc::as_ptr(extent.file());
        let fd = match files.iter().find(|(known, _)| *known == file) {
            Some((_, fd)) => *fd,
            None => {
                let fd = transport.send(extent.file().as_fd(), remote, space, scratch)?;
                files.push((file, fd));
                fd
            }
        };
        let (mut at, mut from) = (extent.start, extent.offset());
        while at < extent.end {
            while skipped.get(skip_at).is_some_and(|(_, end)| *end <= at) {
                skip_at += 1;
            }
            let skip = skipped.get(skip_at).copied().unwrap_or((u64::MAX, u64::MAX));
            if at >= skip.0 {
                let skip = skip.1.min(extent.end) - at;
                at += skip;
                from += skip;
                continue;
            }
            while areas.get(area_at).is_some_and(|a| a.end <= at) {
                area_at += 1;
            }
            let Some(area) = areas.get(area_at).filter(|a| a.start <= at) else {
                return Err(invalid("there are pages where nothing is mapped"));
            };
            let len = extent.end.min(area.end).min(skip.0) - at;
            let writable = area.prot & PROT_WRITE != 0;
            // What is to be checked when it is read has to come through here.
            let checked = extent.pages.check.is_some();
            let done = if writable && len >= DIRECT && !checked {
                let len = len.min(READ_MAX);
                remote.call(libc::SYS_pread64, [fd as u64, at, len, from, 0, 0])?
            } else {
                let len = len.min(DIRECT);
                let part = &mut buf[..len as usize];
                if checked {
                    chunks.read(&extent.pages, from - extent.pages.offset, part)?;
                } else {
                    extent.file().read_exact_at(part, from)?;
                }
                space.write(at, part)?;
                len
            };
            if done == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            at += done;
            from += done;
        }
    }
    for (_, fd) in files {
        remote.close(fd)?;
    }
    Ok(())
}

/// Gives the areas their last protection, advice and locks.
pub(crate) fn finish(body: &Body, remote: &mut Remote) -> io::Result<()> {
    for area in body.mm.vmas.iter().filter(|a| is_ours(a)) {
        let len = area.end - area.start;
        if area.accounted == Some(true) {
            remote.mprotect(area.start, len, area.prot)?;
        }
        for advice in areas::advice(area) {
            remote.madvise(area.start, len, advice)?;
        }
        if areas::is_locked(area) {
            let flags = if area.locked_on_fault == Some(true) { libc::MLOCK_ONFAULT } else { 0 };
            remote.call(libc::SYS_mlock2, [area.start, len, u64::from(flags), 0, 0, 0])?;
        }
    }
    Ok(())
}

/// Installs the guard regions.
pub(crate) fn install_guards(body: &Body, remote: &mut Remote) -> io::Result<()> {
    const MADV_GUARD_INSTALL: i32 = 102;
    for guard in body.mm.vmas.iter().filter(|a| a.status & areas::GUARD != 0) {
        remote.madvise(guard.start, guard.end - guard.start, MADV_GUARD_INSTALL)?;
    }
    Ok(())
}

/// Sets the bounds that /proc shows, the auxiliary vector and the executable (PR_SET_MM_MAP).
pub(crate) fn set_bounds(
    mm: &msg::MmEntry,
    exe: i32,
    remote: &mut Remote,
    space: &Space,
    scratch: Scratch,
) -> io::Result<()> {
    const PR_SET_MM_MAP: u64 = 14;
    let auxv: Vec<u8> = mm.mm_saved_auxv.iter().flat_map(|w| w.to_le_bytes()).collect();
    let auxv_at = scratch.at + 256;
    let mut map = Vec::with_capacity(104);
    for word in [
        mm.mm_start_code,
        mm.mm_end_code,
        mm.mm_start_data,
        mm.mm_end_data,
        mm.mm_start_brk,
        mm.mm_brk,
        mm.mm_start_stack,
        mm.mm_arg_start,
        mm.mm_arg_end,
        mm.mm_env_start,
        mm.mm_env_end,
        auxv_at,
    ] {
        map.extend(word.to_le_bytes());
    }
    map.extend((auxv.len() as u32).to_le_bytes());
    map.extend((exe as u32).to_le_bytes());
    let len = map.len() as u64;
    space.write(auxv_at, &auxv)?;
    space.write(scratch.at, &map)?;
    remote.prctl(libc::PR_SET_MM, [PR_SET_MM_MAP, scratch.at, len, 0]).map(drop)
}

/// The areas as they are now, of a task under construction.
pub(crate) fn current(pid: i32) -> io::Result<Vec<Area>> {
    maps::of(pid).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_free_in_both_layouts() {
        let area = |start: u64, end: u64| msg::VmaEntry { start, end, ..Default::default() };
        let then = [area(0x1_0000, 0x4000_0000), area(0x5000_0000, 0x6000_0000)];
        let at = hole(&[], &then, 0x10000).unwrap();
        assert!(at >= 0x4000_0000 && at + 0x10000 <= 0x5000_0000);
        assert!(hole(&[], &[area(0x1_0000, TOP)], 0x1000).is_none());
    }
}
