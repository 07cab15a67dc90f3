//! The flags of areas without smaps.
//!
//! /proc/PID/smaps has them, and walks all page tables for it with the address space locked: tens of
//! milliseconds for each GiB. A BPF iterator over the areas gives the kernel's own number at once.
//! The bits below 2^32 have had the same meaning for a decade (include/linux/mm.h); this process's own
//! smaps is the proof, and tells what the numbers with other bits mean that the kernel's own pages
//! have. A number that stays unknown sends the reader back to smaps.

use std::collections::HashMap;
use std::sync::OnceLock;

use cryopod_sys::bpf::{Piece, Shown, TaskReader};

use super::btf;
use super::maps::{self, Area};
use crate::error::DumpError;

/// Bits and their letters in smaps.
const LETTERS: [(u64, &[u8; 2]); 30] = [
    (1 << 0, b"rd"),
    (1 << 1, b"wr"),
    (1 << 2, b"ex"),
    (1 << 3, b"sh"),
    (1 << 4, b"mr"),
    (1 << 5, b"mw"),
    (1 << 6, b"me"),
    (1 << 7, b"ms"),
    (1 << 8, b"gd"),
    (1 << 9, b"um"),
    (1 << 10, b"pf"),
    (1 << 12, b"uw"),
    (1 << 13, b"lo"),
    (1 << 14, b"io"),
    (1 << 15, b"sr"),
    (1 << 16, b"rr"),
    (1 << 17, b"dc"),
    (1 << 18, b"de"),
    (1 << 19, b"lf"),
    (1 << 20, b"ac"),
    (1 << 21, b"nr"),
    (1 << 22, b"ht"),
    (1 << 23, b"sf"),
    (1 << 25, b"wf"),
    (1 << 26, b"dd"),
    (1 << 27, b"sd"),
    (1 << 28, b"mm"),
    (1 << 29, b"hg"),
    (1 << 30, b"nh"),
    (1 << 31, b"mg"),
];

/// Letters that some kernels do not show.
const OPTIONAL: [&[u8; 2]; 2] = [b"sd", b"mg"];

/// Reads the flags of areas.
#[derive(Debug)]
pub struct VmFlags {
    reader: TaskReader,
    len: usize,
    end_at: usize,
    flags_at: usize,
    /// What numbers with other bits mean.
    known: HashMap<u64, Vec<[u8; 2]>>,
}

/// One area: first address, address after the last byte, flags.
type Raw = (u64, u64, u64);

/// The letters of a number whose bits are all known.
fn letters(flags: u64) -> Option<Vec<[u8; 2]>> {
    let all = LETTERS.iter().fold(0, |all, (bit, _)| all | bit);
    let found = LETTERS.iter().filter(|(bit, _)| flags & bit != 0);
    (flags & !all == 0).then(|| found.map(|(_, letters)| **letters).collect())
}

fn is_vsyscall(area: &Area) -> bool {
    area.special() == Some("[vsyscall]")
}

impl VmFlags {
    /// The reader of this process, prepared at the first call: for before the freeze. `None` where
    /// the kernel does not let us, or has other meanings.
    #[must_use]
    pub fn prepared() -> Option<&'static Self> {
        static PREPARED: OnceLock<Option<VmFlags>> = OnceLock::new();
        PREPARED.get_or_init(Self::prepare).as_ref()
    }

    fn prepare() -> Option<Self> {
        let btf = btf::kernel()?;
        let (_, area) = btf.structure("vm_area_struct", 1)?;
        let at = |name: &str| area.get(name).copied();
        let (start, end, flags) = (at("vm_start")?, at("vm_end")?, at("vm_flags")?);
        let len = flags.max(end).checked_sub(start)? + 8;
        let iterator = btf.function("bpf_iter_task_vma")?;
        let piece = Piece { through: None, offset: start, len };
        let reader = TaskReader::load(Shown::Area, iterator, &[piece]).ok()?;
        let within = |offset: u32| offset.checked_sub(start).map(|o| o as usize);
        let (end_at, flags_at) = (within(end)?, within(flags)?);
        let mut read = Self { reader, len: len as usize, end_at, flags_at, known: HashMap::new() };
        read.prove()?;
        Some(read)
    }

    /// Compares with this process's own smaps.
    fn prove(&mut self) -> Option<()> {
        let pid = i32::try_from(std::process::id()).ok()?;
        let areas = maps::with_flags(pid).ok()?;
        let raw: HashMap<(u64, u64), u64> =
            self.read(pid)?.into_iter().map(|(start, end, flags)| ((start, end), flags)).collect();
        let mut proven = 0;
        for area in &areas {
            // Reading changes the heap.
            let Some(flags) = raw.get(&(area.start, area.end)) else { continue };
            match letters(*flags) {
                Some(letters) => {
                    let shown = |l: &[u8; 2]| !OPTIONAL.contains(&l) && l != b"sf";
                    let same = LETTERS
                        .iter()
                        .filter(|(_, l)| shown(l))
                        .all(|(_, l)| letters.contains(l) == area.has(l));
                    if !same {
                        return None;
                    }
                    proven += 1;
                }
                None => {
                    self.known.insert(*flags, area.flags.clone());
                }
            }
        }
        (proven >= 4).then_some(())
    }

    fn read(&self, pid: i32) -> Option<Vec<Raw>> {
        let bytes = self.reader.read(pid).ok()?;
        let number =
            |area: &[u8], at: usize| area.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        bytes
            .chunks_exact(self.len)
            .map(|area| {
                Some((number(area, 0)?, number(area, self.end_at)?, number(area, self.flags_at)?))
            })
            .collect()
    }

    /// Completes areas read from maps; `None` when they have changed since, or a flag is unknown.
    fn complete(&self, pid: i32, mut areas: Vec<Area>) -> Option<Vec<Area>> {
        let raw = self.read(pid)?;
        let mut shown = raw.iter();
        // The iterator does not show it, and nothing of it is dumped.
        for area in areas.iter_mut().filter(|a| !is_vsyscall(a)) {
            let (start, end, flags) = shown.next()?;
            if (*start, *end) != (area.start, area.end) {
                return None;
            }
            area.flags = letters(*flags).or_else(|| self.known.get(flags).cloned())?;
        }
        shown.next().is_none().then_some(areas)
    }
}

/// The areas of a process with their flags, by the iterator or else by smaps.
///
/// # Errors
/// [`DumpError::Proc`].
pub fn areas(pid: i32) -> Result<Vec<Area>, DumpError> {
    if let Some(reader) = VmFlags::prepared()
        && let Some(areas) = reader.complete(pid, maps::of(pid)?)
    {
        return Ok(areas);
    }
    maps::with_flags(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_those_of_smaps() {
        let Some(reader) = VmFlags::prepared() else {
            println!("skipped: the kernel does not let us read areas by BPF");
            return;
        };
        // Another process, which does nothing: the test's own areas change with every allocation.
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        let settled = || maps::of(pid).unwrap();
        let mut last = Vec::new();
        while last != settled() || last.len() < 8 {
            last = settled();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let ours = reader.complete(pid, settled()).unwrap();
        let smaps = maps::with_flags(pid).unwrap();
        assert_eq!(ours.len(), smaps.len());
        for (ours, smaps) in ours.iter().zip(&smaps).filter(|(a, _)| !is_vsyscall(a)) {
            for (_, letters) in LETTERS.iter().filter(|(_, l)| !OPTIONAL.contains(l)) {
                assert_eq!(ours.has(letters), smaps.has(letters), "{smaps:?} {ours:?}");
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
