//! ptrace(2) requests, as far as checkpoint and restore need them (x86_64).
//!
//! ptrace belongs to one thread: every function here must be called by the thread that seized the
//! tracee. Relies on PTRACE_SEIZE (3.4), PTRACE_GETSIGMASK (3.11), PTRACE_PEEKSIGINFO (3.10),
//! PTRACE_SECCOMP_GET_FILTER (4.4), PTRACE_GET_RSEQ_CONFIGURATION (5.13).

use std::{io, mem, ptr};

use crate::check;

/// Stop at fork, with the child seized too.
pub const O_TRACEFORK: i32 = libc::PTRACE_O_TRACEFORK;
/// Stop at vfork, with the child seized too.
pub const O_TRACEVFORK: i32 = libc::PTRACE_O_TRACEVFORK;
/// Stop at clone, with the new thread or process seized too.
pub const O_TRACECLONE: i32 = libc::PTRACE_O_TRACECLONE;
/// Report syscall stops as SIGTRAP|0x80.
pub const O_TRACESYSGOOD: i32 = libc::PTRACE_O_TRACESYSGOOD;
/// Kill the tracee when the tracer ends.
pub const O_EXITKILL: i32 = libc::PTRACE_O_EXITKILL;
/// Do not evaluate the tracee's seccomp filters while it is traced (CAP_SYS_ADMIN).
pub const O_SUSPEND_SECCOMP: i32 = 1 << 21;

const GETREGSET: u32 = 0x4204;
const SETREGSET: u32 = 0x4205;
const SEIZE: u32 = 0x4206;
const INTERRUPT: u32 = 0x4207;
const LISTEN: u32 = 0x4208;
const PEEKSIGINFO: u32 = 0x4209;
const GETSIGMASK: u32 = 0x420a;
const SETSIGMASK: u32 = 0x420b;
const SECCOMP_GET_FILTER: u32 = 0x420c;
const GET_RSEQ_CONFIGURATION: u32 = 0x420f;

const NT_PRSTATUS: usize = 1;
const NT_X86_XSTATE: usize = 0x202;

/// General registers of an x86_64 thread, in the kernel's order.
pub use libc::user_regs_struct as Registers;

fn request(req: u32, tid: i32, addr: usize, data: usize) -> io::Result<i64> {
    // SAFETY: the callers below pass addresses of live buffers of the size the request writes.
    check(unsafe { libc::ptrace(req as _, tid, addr, data) })
}

/// Attaches to a thread without stopping it (PTRACE_SEIZE).
///
/// # Errors
/// ESRCH when the thread is gone, EPERM when it is traced already or may not be traced.
pub fn seize(tid: i32, options: i32) -> io::Result<()> {
    request(SEIZE, tid, 0, options as usize).map(drop)
}

/// Asks a seized thread to stop; the stop is reported by wait(2) as PTRACE_EVENT_STOP.
pub fn interrupt(tid: i32) -> io::Result<()> {
    request(INTERRUPT, tid, 0, 0).map(drop)
}

/// Lets a thread in group-stop stay stopped while it keeps reporting events.
pub fn listen(tid: i32) -> io::Result<()> {
    request(LISTEN, tid, 0, 0).map(drop)
}

/// Changes the options of a seized, stopped thread.
pub fn set_options(tid: i32, options: i32) -> io::Result<()> {
    request(libc::PTRACE_SETOPTIONS, tid, 0, options as usize).map(drop)
}

/// Lets a stopped thread run on, delivering `signal` (0: none).
pub fn resume(tid: i32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_CONT, tid, 0, signal as usize).map(drop)
}

/// Lets a stopped thread run to the next system call entry or exit.
pub fn resume_to_syscall(tid: i32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_SYSCALL, tid, 0, signal as usize).map(drop)
}

/// Ends tracing of a stopped thread, delivering `signal` (0: none).
pub fn detach(tid: i32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_DETACH, tid, 0, signal as usize).map(drop)
}

/// The message of the last event stop: the new pid at a fork or clone event.
pub fn event_message(tid: i32) -> io::Result<u64> {
    let mut msg: libc::c_ulong = 0;
    request(libc::PTRACE_GETEVENTMSG, tid, 0, ptr::addr_of_mut!(msg) as usize)?;
    Ok(msg)
}

fn get_regset(tid: i32, note: usize, buf: *mut u8, len: usize) -> io::Result<usize> {
    let mut iov = libc::iovec { iov_base: buf.cast(), iov_len: len };
    request(GETREGSET, tid, note, ptr::addr_of_mut!(iov) as usize)?;
    Ok(iov.iov_len)
}

fn set_regset(tid: i32, note: usize, buf: *const u8, len: usize) -> io::Result<()> {
    let mut iov = libc::iovec { iov_base: buf.cast_mut().cast(), iov_len: len };
    request(SETREGSET, tid, note, ptr::addr_of_mut!(iov) as usize).map(drop)
}

/// Reads the general registers of a stopped thread.
///
/// # Errors
/// `Unsupported` for a 32-bit task, whose register set is shorter.
pub fn registers(tid: i32) -> io::Result<Registers> {
    // SAFETY: Registers is a plain C struct of integers; all zeroes is a valid value.
    let mut regs: Registers = unsafe { mem::zeroed() };
    let want = size_of::<Registers>();
    let got = get_regset(tid, NT_PRSTATUS, ptr::addr_of_mut!(regs).cast(), want)?;
    if got != want {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "not a 64-bit task"));
    }
    Ok(regs)
}

/// Writes the general registers of a stopped thread.
pub fn set_registers(tid: i32, regs: &Registers) -> io::Result<()> {
    set_regset(tid, NT_PRSTATUS, ptr::from_ref(regs).cast(), size_of::<Registers>())
}

/// Reads the extended processor state of a stopped thread: a whole XSAVE area in the standard
/// (not compacted) format, as large as the kernel reports.
pub fn xstate(tid: i32) -> io::Result<Vec<u8>> {
    let mut buf = vec![0u8; 16 * 1024];
    let got = get_regset(tid, NT_X86_XSTATE, buf.as_mut_ptr(), buf.len())?;
    buf.truncate(got);
    Ok(buf)
}

/// Writes the extended processor state of a stopped thread.
///
/// # Errors
/// EFAULT or EINVAL when the area does not fit this processor.
pub fn set_xstate(tid: i32, area: &[u8]) -> io::Result<()> {
    set_regset(tid, NT_X86_XSTATE, area.as_ptr(), area.len())
}

/// The mask of blocked signals of a stopped thread (bit 0: signal 1).
pub fn signal_mask(tid: i32) -> io::Result<u64> {
    let mut mask = 0u64;
    request(GETSIGMASK, tid, size_of::<u64>(), ptr::addr_of_mut!(mask) as usize)?;
    Ok(mask)
}

/// Replaces the mask of blocked signals of a stopped thread.
pub fn set_signal_mask(tid: i32, mask: u64) -> io::Result<()> {
    request(SETSIGMASK, tid, size_of::<u64>(), ptr::from_ref(&mask) as usize).map(drop)
}

/// One siginfo_t, as the kernel hands it out (128 bytes).
pub type SigInfo = [u8; 128];

#[repr(C)]
struct PeekSigInfoArgs {
    off: u64,
    flags: u32,
    nr: i32,
}

/// Pending signals of a stopped thread, oldest first, without taking them: those of the thread, or
/// those of its process when `shared`.
pub fn pending_signals(tid: i32, shared: bool) -> io::Result<Vec<SigInfo>> {
    const BATCH: usize = 32;
    let mut all = Vec::new();
    loop {
        let mut batch = [[0u8; 128]; BATCH];
        let args =
            PeekSigInfoArgs { off: all.len() as u64, flags: u32::from(shared), nr: BATCH as i32 };
        let got =
            request(PEEKSIGINFO, tid, ptr::from_ref(&args) as usize, batch.as_mut_ptr() as usize)?;
        all.extend_from_slice(&batch[..got as usize]);
        if (got as usize) < BATCH {
            return Ok(all);
        }
    }
}

/// The signal that a thread in signal-delivery-stop is about to take.
pub fn delivered_signal(tid: i32) -> io::Result<SigInfo> {
    let mut info = [0u8; 128];
    request(libc::PTRACE_GETSIGINFO, tid, 0, info.as_mut_ptr() as usize)?;
    Ok(info)
}

/// One classic BPF instruction of a seccomp filter.
pub use libc::sock_filter as BpfInstruction;

/// The `index`-th seccomp filter of a stopped thread, newest first; `None` past the last one.
///
/// # Errors
/// EACCES without CAP_SYS_ADMIN or when the tracer is filtered itself, EMEDIUMTYPE for a filter
/// that was not loaded as classic BPF.
pub fn seccomp_filter(tid: i32, index: usize) -> io::Result<Option<Vec<BpfInstruction>>> {
    let len = match request(SECCOMP_GET_FILTER, tid, index, 0) {
        Ok(len) => len as usize,
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut insns = vec![BpfInstruction { code: 0, jt: 0, jf: 0, k: 0 }; len];
    request(SECCOMP_GET_FILTER, tid, index, insns.as_mut_ptr() as usize)?;
    Ok(Some(insns))
}

/// SECCOMP_FILTER_FLAG_* the `index`-th filter of a stopped thread was installed with
/// (PTRACE_SECCOMP_GET_METADATA, Linux 4.16).
///
/// # Errors
/// As [`seccomp_filter`].
pub fn seccomp_flags(tid: i32, index: usize) -> io::Result<u64> {
    const SECCOMP_GET_METADATA: u32 = 0x420d;
    let mut metadata = [index as u64, 0u64];
    let size = size_of_val(&metadata);
    request(SECCOMP_GET_METADATA, tid, size, metadata.as_mut_ptr() as usize)?;
    Ok(metadata[1])
}

/// What a thread registered with rseq(2).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RseqConfiguration {
    /// Address of the `struct rseq`; 0 when none is registered.
    pub address: u64,
    /// Its size in bytes, as registered.
    pub size: u32,
    /// The signature before each abort handler.
    pub signature: u32,
    /// Flags (0 so far).
    pub flags: u32,
    /// Padding.
    pub pad: u32,
}

/// The rseq registration of a stopped thread.
pub fn rseq(tid: i32) -> io::Result<RseqConfiguration> {
    let mut conf = RseqConfiguration::default();
    request(
        GET_RSEQ_CONFIGURATION,
        tid,
        size_of::<RseqConfiguration>(),
        ptr::addr_of_mut!(conf) as usize,
    )?;
    Ok(conf)
}
