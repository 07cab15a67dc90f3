//! Seccomp filters: read by ptrace, installed again as they are (seccomp(2)).
//!
//! Threads inherit filters, so chains share their beginnings; the image has every program once and
//! each thread the index of its newest. While a thread is traced its filters are suspended
//! (PTRACE_O_SUSPEND_SECCOMP). Refused: strict mode.

use std::io;

use cryopod_images::msg;
use cryopod_sys::ptrace::{self, BpfInstruction};

use crate::inject::calls::Scratch;
use crate::inject::{Remote, Space};

const SET_MODE_FILTER: u64 = 1;
/// Most instructions of one program (BPF_MAXINSNS).
const MAX: usize = 4096;

fn bytes_of(program: &[BpfInstruction]) -> Vec<u8> {
    program
        .iter()
        .flat_map(|i| {
            let code = i.code.to_le_bytes();
            let k = i.k.to_le_bytes();
            [code[0], code[1], i.jt, i.jf, k[0], k[1], k[2], k[3]]
        })
        .collect()
}

/// The filters of a tree, each once.
#[derive(Debug, Default)]
pub struct Filters {
    /// As the image has them.
    pub entry: msg::SeccompEntry,
}

impl Filters {
    /// Adds the chain of a thread; the index of its newest filter, `None` without one.
    ///
    /// # Errors
    /// Those of ptrace.
    pub fn add(&mut self, tid: i32) -> io::Result<Option<u32>> {
        let mut chain = Vec::new();
        while let Some(program) = ptrace::seccomp_filter(tid, chain.len())? {
            let flags = ptrace::seccomp_flags(tid, chain.len())?;
            chain.push((bytes_of(&program), flags));
        }
        let mut prev = None;
        for (filter, flags) in chain.into_iter().rev() {
            let wanted =
                msg::SeccompFilter { filter, prev, flags: (flags != 0).then_some(flags as u32) };
            let known = self.entry.seccomp_filters.iter().position(|f| *f == wanted);
            let at = known.unwrap_or_else(|| {
                self.entry.seccomp_filters.push(wanted);
                self.entry.seccomp_filters.len() - 1
            });
            prev = Some(at as u32);
        }
        Ok(prev)
    }
}

/// The chain that ends at `newest`, oldest first.
///
/// # Errors
/// `InvalidData` for an index that is not there or a chain in a circle.
pub fn chain(entry: &msg::SeccompEntry, newest: u32) -> io::Result<Vec<&msg::SeccompFilter>> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "seccomp filters make no chain");
    let mut chain = Vec::new();
    let mut at = Some(newest);
    while let Some(index) = at {
        let filter = entry.seccomp_filters.get(index as usize).ok_or_else(bad)?;
        if chain.len() > entry.seccomp_filters.len() {
            return Err(bad());
        }
        chain.push(filter);
        at = filter.prev;
    }
    chain.reverse();
    Ok(chain)
}

/// Installs a chain in a thread that still has the right to (CAP_SYS_ADMIN).
///
/// # Errors
/// Those of the remote calls; `InvalidData` for a program that is none.
pub fn restore(
    filters: &[&msg::SeccompFilter],
    remote: &mut Remote,
    space: &Space,
    scratch: Scratch,
) -> io::Result<()> {
    for filter in filters {
        let count = filter.filter.len() / 8;
        if !filter.filter.len().is_multiple_of(8) || count == 0 || count > MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a seccomp program"));
        }
        // struct sock_fprog: length, padding, pointer.
        let program = scratch.at + 64;
        let mut header = [0u8; 16];
        header[..2].copy_from_slice(&(count as u16).to_le_bytes());
        header[8..].copy_from_slice(&program.to_le_bytes());
        space.write(program, &filter.filter)?;
        let flags = u64::from(filter.flags.unwrap_or(0));
        let args = [SET_MODE_FILTER, flags, 0, 0, 0, 0];
        remote.call_in(space, scratch, libc::SYS_seccomp, args, 2, &header)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_oldest_first_and_circles_are_refused() {
        let filter = |prev| msg::SeccompFilter { filter: vec![0; 8], prev, flags: None };
        let entry = msg::SeccompEntry { seccomp_filters: vec![filter(None), filter(Some(0))] };
        assert_eq!(chain(&entry, 1).unwrap().len(), 2);
        assert!(chain(&entry, 5).is_err());
        let circle = msg::SeccompEntry { seccomp_filters: vec![filter(Some(0))] };
        assert!(chain(&circle, 0).is_err());
    }
}
