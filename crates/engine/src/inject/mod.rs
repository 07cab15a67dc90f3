//! Remote calls: a stopped thread runs system calls chosen by the engine.
//!
//! [`Space`] is the target's address space with the stub in it, [`Remote`] one of its threads
//! prepared for calls. At every moment of a call the death of the engine leaves a thread that
//! restores itself: see [`frame`] and [`stub`]. On the normal path [`Remote::leave`] puts the
//! registers back by ptrace, so that the kernel restarts an interrupted call as if nothing had
//! happened; for that the thread is first brought to the same kind of stop it was found in.
//!
//! No call made this way may use the thread's restart block (poll, futex, nanosleep with a
//! timeout), which belongs to the interrupted call.

pub mod calls;
pub mod frame;
pub mod guard;
pub mod interrupted;
pub mod site;
pub mod stub;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use cryopod_sys::ptrace::{self, Registers};
use cryopod_sys::wait::{self, Status};

use crate::proc::maps::Area;
use guard::Guard;

/// Lets a thread that a dead engine abandoned in the stub find its way back: the registers it has
/// now are not the program's, and it still needs its frame. Nothing to do for any other thread. To
/// be called for every thread before the first [`site::Site`] is taken.
///
/// # Errors
/// Those of ptrace; ESRCH when the thread ended meanwhile.
pub fn finish_return(space: &Space, tid: i32) -> io::Result<()> {
    const TRIES: u32 = 8;
    for _ in 0..TRIES {
        let rip = ptrace::registers(tid)?.rip;
        if !stub::contains(space.stub, rip) {
            return Ok(());
        }
        // To the entry of rt_sigreturn, or of the close(2) before it, and to its exit.
        for _ in 0..2 {
            ptrace::resume_to_syscall(tid, 0)?;
            while !matches!(wait::wait_for(tid)?, Status::Syscall) {
                ptrace::resume_to_syscall(tid, 0)?;
            }
        }
        ptrace::interrupt(tid)?;
        ptrace::resume(tid, 0)?;
        loop {
            match wait::wait_for(tid)? {
                Status::Event { event: wait::EVENT_STOP, .. } => break,
                Status::Signal(signal) => ptrace::resume(tid, signal)?,
                Status::Exited(_) | Status::Killed(_) => {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                _ => ptrace::resume(tid, 0)?,
            }
        }
    }
    Err(io::Error::other("the thread does not leave the stub of an engine that died"))
}

/// All signals blocked; the kernel leaves SIGKILL and SIGSTOP out.
const ALL_BLOCKED: u64 = u64::MAX;

/// An address space that can be read, written and made to run the stub.
#[derive(Debug)]
pub struct Space {
    /// Host pid of a process that uses it.
    pub pid: i32,
    mem: File,
    stub: u64,
}

impl Space {
    /// Opens the memory of a stopped process and puts the stub in.
    ///
    /// # Errors
    /// Those of opening /proc/PID/mem and of [`stub::install`].
    pub fn open(pid: i32, areas: &[Area]) -> io::Result<Self> {
        let mem = OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
        let stub = stub::place(areas)?;
        stub::install(&mem, stub)?;
        Ok(Self { pid, mem, stub })
    }

    /// Reads exactly `buf.len()` bytes.
    ///
    /// # Errors
    /// EIO when the range is not mapped.
    pub fn read(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        self.mem.read_exact_at(buf, at)
    }

    /// Reads a plain number.
    ///
    /// # Errors
    /// As [`Space::read`].
    pub fn read_u64(&self, at: u64) -> io::Result<u64> {
        let mut buf = [0; 8];
        self.read(at, &mut buf)?;
        Ok(u64::from_le_bytes(buf))
    }

    /// Writes bytes, whatever the protection of the area (the kernel's FOLL_FORCE).
    ///
    /// # Errors
    /// EIO when the range is not mapped.
    pub fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.mem.write_all_at(bytes, at)
    }

    /// Puts in the code that [`Remote::call_closing`] needs.
    ///
    /// # Errors
    /// Those of [`stub::install_closing`].
    pub fn prepare_closing(&self) -> io::Result<()> {
        stub::install_closing(&self.mem, self.stub)
    }

    /// Notes that the vDSO, and the stub with it, was moved by `by` bytes.
    pub fn moved(&mut self, by: i64) {
        self.stub = self.stub.wrapping_add_signed(by);
    }

    /// Takes the stub out.
    ///
    /// # Errors
    /// Those of writing to the process's memory.
    pub fn close(self) -> io::Result<()> {
        stub::remove(&self.mem, self.stub)
    }
}

/// A stopped thread prepared for remote calls.
#[derive(Debug)]
pub struct Remote {
    tid: i32,
    stub: u64,
    frame: u64,
    original: Registers,
    mask: u64,
    /// The registers of the last stop are ours, not the program's.
    entered: bool,
    /// Host pid of the process or thread the last call made.
    born: Option<i32>,
    /// A signal to be delivered with the next step; 0: none.
    deliver: i32,
    /// Signals that arrived in the middle of a call (SIGSTOP cannot be blocked), to be sent again.
    held: Vec<i32>,
    /// What the thread's seccomp filters forbid.
    guard: Guard,
    /// The next call is not to wait.
    interrupted: bool,
}

impl Remote {
    /// Prepares a thread in PTRACE_EVENT_STOP whose frame may lie at `frame` (a multiple of 16 with
    /// [`frame::size`] bytes of room that the program does not use). No call is made that `guard`
    /// does not permit. [`finish_return`] was called for the thread before.
    ///
    /// # Errors
    /// Those of ptrace and of writing the frame.
    pub fn enter(space: &Space, tid: i32, frame: u64, guard: Guard) -> io::Result<Self> {
        let mut remote = Self::enter_new(space, tid, frame)?;
        remote.guard = guard;
        Ok(remote)
    }

    /// As [`Remote::enter`], for a thread that was itself made by the engine: it has no filters.
    ///
    /// # Errors
    /// As [`Remote::enter`].
    pub fn enter_new(space: &Space, tid: i32, frame: u64) -> io::Result<Self> {
        let mut original = ptrace::registers(tid)?;
        interrupted::undisturb(&mut original);
        let mask = ptrace::signal_mask(tid)?;
        let mut resolved = original;
        interrupted::abort_rseq(space, tid, &mut resolved)?;
        let mut put_back = resolved;
        interrupted::resolve(&mut resolved);
        let content = frame::Content { registers: &resolved, xstate: &ptrace::xstate(tid)?, mask };
        space.write(frame, &frame::build(frame, content))?;
        put_back.orig_rax = original.orig_rax;
        let remote = Self {
            tid,
            stub: space.stub,
            frame,
            original: put_back,
            mask,
            entered: true,
            born: None,
            deliver: 0,
            held: Vec::new(),
            guard: Guard::default(),
            interrupted: false,
        };
        remote.park()?;
        ptrace::set_signal_mask(tid, ALL_BLOCKED)?;
        Ok(remote)
    }

    /// The thread's id as the host sees it.
    #[must_use]
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// The registers the thread is put back to, a restartable call still open in them.
    #[must_use]
    pub fn original(&self) -> &Registers {
        &self.original
    }

    /// The signal mask the thread is put back to.
    #[must_use]
    pub fn mask(&self) -> u64 {
        self.mask
    }

    /// Follows the stub after the vDSO was moved (see [`Space::moved`]).
    pub fn follow(&mut self, space: &Space) {
        self.stub = space.stub;
    }

    /// Uses another frame from now on; nobody relies on the old one any more.
    pub fn use_frame(&mut self, frame: u64) {
        self.frame = frame;
    }

    fn parked(&self) -> Registers {
        Registers {
            rip: self.stub,
            rsp: frame::stack_pointer(self.frame),
            rax: libc::SYS_rt_sigreturn as u64,
            // Not in a system call: nothing to restart.
            orig_rax: u64::MAX,
            ..self.original
        }
    }

    fn park(&self) -> io::Result<()> {
        ptrace::set_registers(self.tid, &self.parked())
    }

    /// Runs the thread to its next system call stop.
    fn step(&mut self) -> io::Result<()> {
        if self.deliver != 0 {
            cryopod_sys::process::tgkill(self.tid, self.tid, self.deliver)?;
        }
        ptrace::resume_to_syscall(self.tid, 0)?;
        loop {
            match wait::wait_for(self.tid)? {
                Status::Syscall => return Ok(()),
                Status::Signal(signal) if signal == self.deliver => {
                    ptrace::resume_to_syscall(self.tid, signal)?;
                }
                Status::Signal(signal) => {
                    self.held.push(signal);
                    ptrace::resume_to_syscall(self.tid, 0)?;
                }
                // A group stop began, or an interrupt of ours was still due; the call goes first.
                Status::Event { event: wait::EVENT_STOP, .. } => {
                    ptrace::resume_to_syscall(self.tid, 0)?;
                }
                Status::Event { event, .. } => {
                    if matches!(event, wait::EVENT_FORK | wait::EVENT_VFORK | wait::EVENT_CLONE) {
                        self.born = Some(ptrace::event_message(self.tid)? as i32);
                    }
                    ptrace::resume_to_syscall(self.tid, 0)?;
                }
                Status::Exited(_) | Status::Killed(_) => {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                Status::Continued => {}
            }
        }
    }

    /// Runs one system call to its end and returns what it returned: a negative errno on failure.
    ///
    /// # Errors
    /// ESRCH when the thread was killed meanwhile, `PermissionDenied` for a call that a seccomp filter
    /// does not let pass harmlessly, and those of ptrace.
    pub fn call_raw(&mut self, number: i64, args: [u64; 6]) -> io::Result<i64> {
        if !self.guard.permits_from(self.stub + stub::SYSCALL_LEN, number, &args) {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("a seccomp filter kills or traps system call {number}"),
            ));
        }
        self.park()?;
        self.step()?;
        // At the entry: the number takes the place of rt_sigreturn's only now, so that up to this
        // moment an abandoned thread restores itself.
        let mut regs = ptrace::registers(self.tid)?;
        regs.orig_rax = number as u64;
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
        ptrace::set_registers(self.tid, &regs)?;
        if self.interrupted {
            // The stop is due as soon as the thread leaves the kernel, so it does not sleep in it.
            ptrace::interrupt(self.tid)?;
        }
        self.step()?;
        let regs = ptrace::registers(self.tid)?;
        if regs.rip != self.stub + stub::SYSCALL_LEN {
            return Err(io::Error::other("the thread left the stub during a remote call"));
        }
        Ok(regs.rax as i64)
    }

    /// Runs one system call that gives a new descriptor, shows it to `take`, and closes it again: also
    /// when the engine dies at any moment of it. [`Space::prepare_closing`] was called before.
    ///
    /// # Errors
    /// The call's and `take`'s, and as [`Remote::call_raw`].
    pub fn call_closing<T>(
        &mut self,
        number: i64,
        args: [u64; 6],
        take: impl FnOnce(i32) -> io::Result<T>,
    ) -> io::Result<T> {
        let code = stub::closing(self.stub);
        let permitted = self.guard.permits_from(code + stub::SYSCALL_LEN, number, &args)
            // The descriptor's number is not known yet; a filter that looks at it is a curiosity.
            && self.guard.permits_from(code + stub::CLOSED_AT, libc::SYS_close, &[3; 6]);
        if !permitted {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("a seccomp filter kills or traps system call {number}"),
            ));
        }
        ptrace::set_registers(self.tid, &Registers { rip: code, ..self.parked() })?;
        self.step()?;
        let mut regs = ptrace::registers(self.tid)?;
        regs.orig_rax = number as u64;
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
        ptrace::set_registers(self.tid, &regs)?;
        self.step()?;
        let ret = ptrace::registers(self.tid)?.rax as i64;
        let taken = match i32::try_from(ret) {
            Ok(fd) if fd >= 0 => take(fd),
            _ => Err(io::Error::from_raw_os_error(-ret as i32)),
        };
        // To the entry of close(2), and to its exit.
        self.step()?;
        self.step()?;
        let rip = ptrace::registers(self.tid)?.rip;
        if rip != code + stub::CLOSED_AT {
            return Err(io::Error::other("the thread left the stub during a remote call"));
        }
        taken
    }

    /// Runs one system call that waits, interrupted at once, and returns what it returned inside the
    /// kernel: one of its restart codes when it would have waited.
    ///
    /// # Errors
    /// As [`Remote::call_raw`].
    pub fn call_interrupted(&mut self, number: i64, args: [u64; 6]) -> io::Result<i64> {
        self.interrupted = true;
        let answer = self.call_raw(number, args);
        self.interrupted = false;
        answer
    }

    /// Runs one system call and turns a negative result into its error.
    ///
    /// # Errors
    /// The call's errno, and as [`Remote::call_raw`].
    pub fn call(&mut self, number: i64, args: [u64; 6]) -> io::Result<u64> {
        let ret = self.call_raw(number, args)?;
        if (-4095..0).contains(&ret) {
            return Err(io::Error::from_raw_os_error(-ret as i32));
        }
        Ok(ret as u64)
    }

    /// Host pid of the process or thread that the last fork or clone made.
    #[must_use]
    pub fn take_born(&mut self) -> Option<i32> {
        self.born.take()
    }

    /// Puts the thread back as it was, stopped by PTRACE_EVENT_STOP again.
    ///
    /// # Errors
    /// Those of ptrace.
    pub fn leave(mut self) -> io::Result<()> {
        self.stop_again()?;
        // The mask first: a thread abandoned between the two still finds its way by the frame.
        ptrace::set_signal_mask(self.tid, self.mask)?;
        ptrace::set_registers(self.tid, &self.original)?;
        self.entered = false;
        Ok(())
    }

    /// Leaves the thread to the caller, who sets all its registers and its mask: for restore.
    ///
    /// # Errors
    /// Those of ptrace.
    pub fn abandon(mut self) -> io::Result<()> {
        self.abandon_now()
    }

    /// As [`Remote::abandon`], for an owner that cannot part with it.
    ///
    /// # Errors
    /// Those of ptrace.
    pub fn abandon_now(&mut self) -> io::Result<()> {
        self.stop_again()?;
        self.entered = false;
        Ok(())
    }

    /// Lets this signal take effect in the next call instead of holding it back.
    pub fn deliver(&mut self, signal: i32) {
        self.deliver = signal;
    }

    /// Brings the thread from a system call exit to PTRACE_EVENT_STOP. There, unlike at the exit,
    /// the kernel looks at the registers for a call to restart when the thread goes on.
    fn stop_again(&mut self) -> io::Result<()> {
        ptrace::interrupt(self.tid)?;
        ptrace::resume(self.tid, 0)?;
        loop {
            match wait::wait_for(self.tid)? {
                Status::Event { event: wait::EVENT_STOP, .. } => break,
                Status::Signal(signal) => {
                    self.held.push(signal);
                    ptrace::resume(self.tid, 0)?;
                }
                Status::Exited(_) | Status::Killed(_) => {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                _ => ptrace::resume(self.tid, 0)?,
            }
        }
        Ok(())
    }

    /// Tries to put the thread back after an error.
    fn rescue(&mut self) {
        if self.entered && self.stop_again().is_ok() {
            let _ = ptrace::set_signal_mask(self.tid, self.mask);
            let _ = ptrace::set_registers(self.tid, &self.original);
        }
        self.entered = false;
    }

    /// Signals that came in the middle of calls and were held back; the caller sends them again
    /// once the thread runs.
    #[must_use]
    pub fn take_held(&mut self) -> Vec<i32> {
        std::mem::take(&mut self.held)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.rescue();
    }
}
