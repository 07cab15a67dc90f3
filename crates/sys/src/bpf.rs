//! Reading a few bytes of a task's kernel structures: BPF iterators over tasks, and over the areas of
//! a task (bpf(2), Linux 5.8; limited to one thread since 6.1).
//!
//! The program copies pieces of `struct task_struct` and of what it points to, or of each `struct
//! vm_area_struct`, to whoever reads the iterator. It changes nothing, and loading it needs CAP_BPF
//! and CAP_PERFMON.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::check;

const PROG_LOAD: i32 = 5;
const LINK_CREATE: i32 = 28;
const ITER_CREATE: i32 = 33;
const TYPE_TRACING: u32 = 26;
const TRACE_ITER: u32 = 28;
const PROBE_READ_KERNEL: i32 = 113;
const SEQ_WRITE: i32 = 127;
/// Bytes read at a time: what the kernel keeps for an iterator (bpf_seq_read).
const PART: usize = 32 << 10;
/// Bytes copied at a time: the program's stack has 512.
const SLICE: u32 = 256;

/// The beginning of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
}

/// The beginning of `union bpf_attr` for BPF_LINK_CREATE.
#[repr(C)]
#[derive(Default)]
struct Link {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    padding: u32,
}

/// One instruction: code, registers, offset, immediate.
const fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> u64 {
    (code as u64)
        | ((dst | src << 4) as u64) << 8
        | (off as u16 as u64) << 16
        | (imm as u32 as u64) << 32
}

const LOAD64: u8 = 0x79;
const MOVE: u8 = 0xbf;
const MOVE_NUMBER: u8 = 0xb7;
const ADD_NUMBER: u8 = 0x07;
const CALL: u8 = 0x85;
const JUMP_IF_ZERO: u8 = 0x15;
const EXIT: u8 = 0x95;

fn bpf<T>(command: i32, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is live and as long as said; what it points to lives in the callers' frames.
    let fd =
        check(unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attr, size_of::<T>()) })?;
    // SAFETY: all commands used here return a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn number(fd: &OwnedFd) -> io::Result<u32> {
    u32::try_from(fd.as_raw_fd()).map_err(io::Error::other)
}

/// What an iterator shows, one after another: where its pointer lies in the program's context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// `struct task_struct`, by the function `bpf_iter_task`.
    Task,
    /// `struct vm_area_struct`, by the function `bpf_iter_task_vma`.
    Area,
}

/// Bytes of a kernel structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where a pointer lies in what is shown, when the bytes are in what it points to.
    pub through: Option<u32>,
    /// Where they begin.
    pub offset: u32,
    /// How many there are.
    pub len: u32,
}

/// Who is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Only {
    Thread(i32),
    Process(i32),
}

/// Reads the same bytes of one thread's `struct task_struct`, or of its areas, after another's.
#[derive(Debug)]
pub struct TaskReader {
    program: OwnedFd,
    shown: Shown,
    len: usize,
}

/// The program that copies the pieces.
fn program(shown: Shown, pieces: &[Piece]) -> Vec<u64> {
    // struct bpf_iter__task: metadata, then the task; bpf_iter__task_vma: the area behind it.
    let pointer = match shown {
        Shown::Task => 8,
        Shown::Area => 16,
    };
    // The stack grows down from r10: a slot for a pointer, then the bytes of a slice.
    let slot = -8;
    let buffer = slot - SLICE as i32;
    let mut body = Vec::new();
    let read = |body: &mut Vec<u64>, to: i32, len: u32, base: u8, offset: u32| {
        body.extend([
            insn(MOVE, 1, 10, 0, 0),
            insn(ADD_NUMBER, 1, 0, 0, to),
            insn(MOVE_NUMBER, 2, 0, 0, len as i32),
            insn(MOVE, 3, base, 0, 0),
            insn(ADD_NUMBER, 3, 0, 0, offset as i32),
            insn(CALL, 0, 0, 0, PROBE_READ_KERNEL),
        ]);
    };
    for piece in pieces {
        // r7: what is shown; r8: what the piece is in.
        match piece.through {
            None => body.push(insn(MOVE, 8, 7, 0, 0)),
            Some(member) => {
                read(&mut body, slot, 8, 7, member);
                body.push(insn(LOAD64, 8, 10, slot as i16, 0));
            }
        }
        for from in (0..piece.len).step_by(SLICE as usize) {
            let len = SLICE.min(piece.len - from);
            read(&mut body, buffer, len, 8, piece.offset + from);
            body.extend([
                insn(LOAD64, 1, 6, 0, 0),
                insn(LOAD64, 1, 1, 0, 0),
                insn(MOVE, 2, 10, 0, 0),
                insn(ADD_NUMBER, 2, 0, 0, buffer),
                insn(MOVE_NUMBER, 3, 0, 0, len as i32),
                insn(CALL, 0, 0, 0, SEQ_WRITE),
            ]);
        }
    }
    let mut program = vec![
        insn(MOVE, 6, 1, 0, 0),
        // Null at the end.
        insn(LOAD64, 7, 6, pointer, 0),
        insn(JUMP_IF_ZERO, 7, 0, body.len() as i16, 0),
    ];
    program.extend(body);
    program.extend([insn(MOVE_NUMBER, 0, 0, 0, 0), insn(EXIT, 0, 0, 0, 0)]);
    program
}

impl TaskReader {
    /// Loads the program. `iterator` is the id of the iterator's function in the kernel's type
    /// information (/sys/kernel/btf/vmlinux), as the places of the pieces come from there.
    ///
    /// # Errors
    /// EPERM without the privilege, EINVAL or EACCES when the kernel does not take the program.
    pub fn load(shown: Shown, iterator: u32, pieces: &[Piece]) -> io::Result<Self> {
        let program = program(shown, pieces);
        let len = pieces.iter().map(|piece| piece.len as usize).sum();
        let attr = Load {
            prog_type: TYPE_TRACING,
            insn_cnt: program.len() as u32,
            insns: program.as_ptr() as u64,
            // The helper that reads kernel memory is for programs under this licence only.
            license: c"GPL".as_ptr() as u64,
            expected_attach_type: TRACE_ITER,
            attach_btf_id: iterator,
            ..Load::default()
        };
        Ok(Self { program: bpf(PROG_LOAD, &attr)?, shown, len })
    }

    /// The bytes of thread `tid`, as the caller's pid namespace numbers it; of its areas, one after
    /// another, those of each.
    ///
    /// # Errors
    /// ESRCH when there is no such thread, EINVAL before Linux 6.1.
    pub fn read(&self, tid: i32) -> io::Result<Vec<u8>> {
        let bytes = self.read_only(Only::Thread(tid))?;
        let whole = match self.shown {
            Shown::Task => bytes.len() == self.len,
            Shown::Area => !bytes.is_empty() && bytes.len().is_multiple_of(self.len),
        };
        if whole { Ok(bytes) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
    }

    /// The bytes of each thread of process `pid`, one after another in no order that could be relied
    /// on.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_threads(&self, pid: i32) -> io::Result<Vec<u8>> {
        let bytes = self.read_only(Only::Process(pid))?;
        let whole = !bytes.is_empty() && bytes.len().is_multiple_of(self.len);
        if whole { Ok(bytes) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
    }

    fn read_only(&self, only: Only) -> io::Result<Vec<u8>> {
        // union bpf_iter_link_info: thread, process, pidfd.
        let only = match only {
            Only::Thread(tid) => [tid as u32, 0, 0, 0],
            Only::Process(pid) => [0, pid as u32, 0, 0],
        };
        let link = bpf(
            LINK_CREATE,
            &Link {
                prog_fd: number(&self.program)?,
                attach_type: TRACE_ITER,
                iter_info: only.as_ptr() as u64,
                iter_info_len: size_of_val(&only) as u32,
                ..Link::default()
            },
        )?;
        let mut iterator = File::from(bpf(ITER_CREATE, &[number(&link)?, 0])?);
        let mut bytes = Vec::with_capacity(self.len);
        match self.shown {
            Shown::Task => drop(iterator.read_to_end(&mut bytes)?),
            Shown::Area => self.read_areas(&mut iterator, &mut bytes)?,
        }
        Ok(bytes)
    }

    /// Reads until the areas, which ascend by their first eight bytes, begin anew: on 6.18 an
    /// iterator over the areas of one task has no end.
    fn read_areas(&self, iterator: &mut File, bytes: &mut Vec<u8>) -> io::Result<()> {
        let first = |area: &[u8]| area.get(..8)?.try_into().ok().map(u64::from_le_bytes);
        let mut last = None;
        let mut part = vec![0; PART];
        loop {
            let got = iterator.read(&mut part)?;
            if got == 0 {
                return Ok(());
            }
            for area in part[..got].chunks(self.len) {
                if last.is_some() && first(area) <= last {
                    return Ok(());
                }
                last = first(area);
                bytes.extend(area);
            }
        }
    }
}
