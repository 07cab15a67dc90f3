//! What the kernel knows of threads and no file of /proc tells: read from its own structures by BPF
//! iterators, all threads of a process at once, where otherwise each thread would have to be made to
//! ask (prctl(2), sigaltstack(2), rt_sigaction(2)), which takes as long for one as this for all.
//!
//! The places come from the kernel's type information. Without it, or without the privilege, the
//! caller asks by remote calls.

use std::collections::HashMap;
use std::io;
use std::sync::OnceLock;

use cryopod_images::msg;
use cryopod_sys::bpf::{Piece, Shown, TaskReader};

use super::btf;

/// Flags of signal actions that programs see (UAPI_SA_FLAGS, SA_RESTORER of x86); the kernel has
/// others for itself.
const SHOWN_FLAGS: u64 = 0xd800_0807 | 0x0400_0000;
const SS_DISABLE: u32 = 2;
const SS_AUTODISARM: u32 = 1 << 31;
/// Size of `struct k_sigaction` on x86-64: handler, flags, restorer, mask.
const ACTION: usize = 32;
/// Inode of the first pid namespace (PROC_PID_INIT_INO).
const INITIAL_PID: &str = "pid:[4026531836]";
/// Signals with an action.
const SIGNALS: usize = 64;

/// What one thread has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Address to be cleared at its end (set_tid_address(2)).
    pub clear_tid: u64,
    /// Signal at its parent's end, or 0.
    pub parent_death_signal: u32,
    /// Its securebits.
    pub securebits: u32,
    /// Alternate signal stack.
    pub stack: msg::ThreadSasEntry,
}

/// Reads [`Facts`] and signal actions.
#[derive(Debug)]
pub struct KernelReader {
    threads: TaskReader,
    actions: TaskReader,
}

/// Bytes of [`KernelReader::threads`]: pid, clear_child_tid, pdeath_signal, alternate stack (place,
/// size, flags), securebits.
const THREAD: usize = 4 + 8 + 4 + 8 + 8 + 4 + 4;

impl KernelReader {
    /// The reader of this process, prepared at the first call: for before the freeze. `None` where
    /// the kernel does not let us.
    #[must_use]
    pub fn prepared() -> Option<&'static Self> {
        static PREPARED: OnceLock<Option<KernelReader>> = OnceLock::new();
        PREPARED.get_or_init(Self::prepare).as_ref()
    }

    fn prepare() -> Option<Self> {
        // It tells of threads by the numbers of the first pid namespace.
        if super::link("self/ns/pid").ok()?.to_str()? != INITIAL_PID {
            return None;
        }
        let btf = btf::kernel()?;
        let iterator = btf.function("bpf_iter_task")?;
        let (_, task) = btf.structure("task_struct", 1)?;
        let (_, cred) = btf.structure("cred", 1)?;
        let (_, hand) = btf.structure("sighand_struct", 1)?;
        let (size, action) = btf.structure("k_sigaction", 2)?;
        let order = ["sa_handler", "sa_flags", "sa_restorer", "sa_mask"];
        let known = order.iter().zip([0, 8, 16, 24]).all(|(name, at)| {
            action.get(&format!("sa.{name}")).is_some_and(|offset| *offset == at)
        });
        if size as usize != ACTION || !known {
            return None;
        }
        let own = |name: &str, len| {
            let offset = *task.get(name)?;
            Some(Piece { through: None, offset, len })
        };
        let pieces = [
            own("pid", 4)?,
            own("clear_child_tid", 8)?,
            own("pdeath_signal", 4)?,
            own("sas_ss_sp", 8)?,
            own("sas_ss_size", 8)?,
            own("sas_ss_flags", 4)?,
            Piece { through: Some(*task.get("cred")?), offset: *cred.get("securebits")?, len: 4 },
        ];
        let actions = Piece {
            through: Some(*task.get("sighand")?),
            offset: *hand.get("action")?,
            len: (ACTION * SIGNALS) as u32,
        };
        let this = Self {
            threads: TaskReader::load(Shown::Task, iterator, &pieces).ok()?,
            actions: TaskReader::load(Shown::Task, iterator, &[actions]).ok()?,
        };
        this.prove().then_some(this)
    }

    /// Whether it tells of this thread what the thread itself hears from the kernel.
    fn prove(&self) -> bool {
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        let Ok(pid) = i32::try_from(std::process::id()) else { return false };
        let heard = cryopod_sys::process::own_alternate_stack();
        let told = self.threads(pid, &[tid]).and_then(|all| all.get(&tid).copied());
        told.is_some_and(|told| {
            let stack = (told.stack.ss_sp, told.stack.ss_size);
            heard.is_ok_and(|heard| heard == stack) && told.parent_death_signal < 65
        })
    }

    /// The facts of the threads of a stopped process; `None` when they are not to be had of all of
    /// them.
    #[must_use]
    pub fn threads(&self, pid: i32, tids: &[i32]) -> Option<HashMap<i32, Facts>> {
        let bytes = self.threads.read_threads(pid).ok()?;
        let mut found = HashMap::with_capacity(tids.len());
        for thread in bytes.as_chunks::<THREAD>().0 {
            let small = |at: usize| thread[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
            let large = |at: usize| thread[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
            let (place, size) = (large(16), large(24));
            let disabled = if size == 0 { SS_DISABLE } else { 0 };
            let facts = Facts {
                clear_tid: large(4),
                parent_death_signal: small(12),
                stack: msg::ThreadSasEntry {
                    ss_sp: place,
                    ss_size: size,
                    ss_flags: (small(32) & SS_AUTODISARM) | disabled,
                },
                securebits: small(36),
            };
            found.insert(small(0) as i32, facts);
        }
        tids.iter().all(|tid| found.contains_key(tid)).then_some(found)
    }

    /// The signal actions of a stopped process, in the image's order: 1 to 64 without SIGKILL and
    /// SIGSTOP.
    ///
    /// # Errors
    /// Those of the iterator.
    pub fn actions(&self, pid: i32) -> io::Result<Vec<msg::SaEntry>> {
        let bytes = self.actions.read(pid)?;
        let numbered = bytes.as_chunks::<ACTION>().0.iter().zip(1..);
        let own = numbered.filter(|(_, signal)| ![libc::SIGKILL, libc::SIGSTOP].contains(signal));
        Ok(own
            .map(|(action, _)| {
                let word =
                    |at: usize| action[at * 8..at * 8 + 8].try_into().map_or(0, u64::from_le_bytes);
                msg::SaEntry {
                    sigaction: word(0),
                    flags: word(1) & SHOWN_FLAGS,
                    restorer: word(2),
                    mask: word(3),
                    compat_sigaction: Some(false),
                    mask_extended: None,
                }
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_what_this_process_has() {
        let Some(reader) = KernelReader::prepared() else {
            assert!(!rustix::process::geteuid().is_root(), "root is not told");
            println!("SKIPPED: BPF iterators need root; elsewhere the engine asks by remote calls");
            return;
        };
        let pid = std::process::id() as i32;
        let actions = reader.actions(pid).unwrap();
        assert_eq!(actions.len(), 62);
        // The runtime of the language ignores SIGPIPE (13, the twelfth without SIGKILL).
        assert_eq!(actions[11].sigaction, 1);
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        let facts = reader.threads(pid, &[tid]).unwrap()[&tid];
        // Each thread of it has an alternate stack, for overflows.
        assert_ne!((facts.stack.ss_size, facts.clear_tid), (0, 0));
        assert!(reader.threads(pid, &[tid, 1]).is_none());
    }
}
