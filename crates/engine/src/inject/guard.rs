//! What a thread's seccomp filters would say to a call of ours.
//!
//! While a thread is traced its filters are suspended (PTRACE_O_SUSPEND_SECCOMP, Linux 4.3). Should
//! the engine be killed while the thread stands at the entry of a remote call, they are in force
//! again and the call is judged by them. So a call they answer with the end of the process, with a
//! signal or with a question to a supervisor (SECCOMP_RET_USER_NOTIF) is never made; an errno or a
//! tracer's answer does no harm. Filters are programs of classic BPF over `struct seccomp_data`
//! (seccomp(2)); of several, the answer of the highest precedence counts.

use std::io;

use cryopod_sys::ptrace::{self, BpfInstruction};

use crate::proc::status;

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const ACTION: u32 = 0xffff_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

/// Instructions run before a program counts as one that does not end; the kernel admits 4096 and
/// no loops.
const STEPS: usize = 4096;

/// The filters of one thread, newest first.
#[derive(Debug, Default)]
pub struct Guard {
    strict: bool,
    filters: Vec<Vec<BpfInstruction>>,
}

/// `struct seccomp_data` of a call made from the stub, as the words a filter can load.
struct Data([u32; 16]);

impl Data {
    fn new(number: i64, rip: u64, args: &[u64; 6]) -> Self {
        let mut words = [0; 16];
        words[0] = number as u32;
        words[1] = AUDIT_ARCH_X86_64;
        for (at, value) in std::iter::once(rip).chain(args.iter().copied()).enumerate() {
            words[2 + at * 2] = value as u32;
            words[3 + at * 2] = (value >> 32) as u32;
        }
        Self(words)
    }

    fn load(&self, offset: u32) -> Option<u32> {
        if !offset.is_multiple_of(4) {
            return None;
        }
        self.0.get(offset as usize / 4).copied()
    }
}

impl Guard {
    /// Reads the filters of a stopped thread.
    ///
    /// # Errors
    /// Those of ptrace(2) and of reading /proc.
    pub fn read(pid: i32, tid: i32) -> io::Result<Self> {
        let mode = status::of(pid, tid).map_err(io::Error::other)?.seccomp;
        let mut filters = Vec::new();
        if mode == 2 {
            while let Some(program) = ptrace::seccomp_filter(tid, filters.len())? {
                filters.push(program);
            }
        }
        Ok(Self { strict: mode == 1, filters })
    }

    /// Whether the thread is in seccomp's strict mode.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        self.strict
    }

    /// Whether making this call can do no harm.
    #[must_use]
    pub fn permits(&self, number: i64, args: &[u64; 6]) -> bool {
        self.permits_from(0, number, args)
    }

    /// As [`Guard::permits`], for a call whose return address is `rip`.
    #[must_use]
    pub fn permits_from(&self, rip: u64, number: i64, args: &[u64; 6]) -> bool {
        if self.strict {
            // seccomp(2), SECCOMP_SET_MODE_STRICT: read, write, _exit and sigreturn only.
            return number == libc::SYS_rt_sigreturn;
        }
        let data = Data::new(number, rip, args);
        let answers = self.filters.iter().map(|f| run(f, &data).unwrap_or(KILL_PROCESS));
        // As signed numbers, the lower answer has precedence.
        let answer = answers.min_by_key(|a| (a & ACTION) as i32).unwrap_or(ALLOW);
        matches!(answer & ACTION, ERRNO | TRACE | LOG | ALLOW)
    }
}

/// Runs a filter; `None` for what the kernel would not have admitted.
fn run(program: &[BpfInstruction], data: &Data) -> Option<u32> {
    let (mut a, mut x) = (0u32, 0u32);
    let mut memory = [0u32; 16];
    let mut at = 0usize;
    for _ in 0..STEPS {
        let insn = program.get(at)?;
        at += 1;
        let k = insn.k;
        let operand = if insn.code & 0x08 == 0 { k } else { x };
        match insn.code {
            // LD and LDX: absolute word, length, immediate, memory.
            0x20 => a = data.load(k)?,
            0x80 => a = 64,
            0x81 => x = 64,
            0x00 => a = k,
            0x01 => x = k,
            0x60 => a = *memory.get(k as usize)?,
            0x61 => x = *memory.get(k as usize)?,
            0x02 => *memory.get_mut(k as usize)? = a,
            0x03 => *memory.get_mut(k as usize)? = x,
            0x04 | 0x0c => a = a.wrapping_add(operand),
            0x14 | 0x1c => a = a.wrapping_sub(operand),
            0x24 | 0x2c => a = a.wrapping_mul(operand),
            0x34 | 0x3c => a = a.checked_div(operand)?,
            0x44 | 0x4c => a |= operand,
            0x54 | 0x5c => a &= operand,
            0x64 | 0x6c => a = a.checked_shl(operand).unwrap_or(0),
            0x74 | 0x7c => a = a.checked_shr(operand).unwrap_or(0),
            0xa4 | 0xac => a ^= operand,
            0x84 => a = a.wrapping_neg(),
            // TAX and TXA.
            0x07 => x = a,
            0x87 => a = x,
            // Jumps: always, equal, greater, greater or equal, bits set.
            0x05 => at += k as usize,
            0x15 | 0x1d => at += branch(insn, a == operand),
            0x25 | 0x2d => at += branch(insn, a > operand),
            0x35 | 0x3d => at += branch(insn, a >= operand),
            0x45 | 0x4d => at += branch(insn, a & operand != 0),
            0x06 => return Some(k),
            0x16 => return Some(a),
            _ => return None,
        }
    }
    None
}

fn branch(insn: &BpfInstruction, taken: bool) -> usize {
    usize::from(if taken { insn.jt } else { insn.jf })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insn(code: u16, jt: u8, jf: u8, k: u32) -> BpfInstruction {
        BpfInstruction { code, jt, jf, k }
    }

    /// `if nr == number { action } else { otherwise }`
    fn on(number: i64, action: u32, otherwise: u32) -> Vec<BpfInstruction> {
        vec![
            insn(0x20, 0, 0, 0),
            insn(0x15, 0, 1, number as u32),
            insn(0x06, 0, 0, action),
            insn(0x06, 0, 0, otherwise),
        ]
    }

    fn guard(filters: Vec<Vec<BpfInstruction>>) -> Guard {
        Guard { strict: false, filters }
    }

    #[test]
    fn only_harmless_answers_permit_a_call() {
        let call = libc::SYS_prctl;
        let answers = [(0u32, false), (0x8000_0000, false), (0x0003_0000, false)];
        let harmless = [(0x7fc0_0000, false), (ERRNO | 1, true), (TRACE, true), (LOG, true)];
        for (action, permitted) in answers.into_iter().chain(harmless) {
            let guard = guard(vec![on(call, action, ALLOW)]);
            assert_eq!(guard.permits(call, &[0; 6]), permitted, "{action:#x}");
            assert!(guard.permits(libc::SYS_getpid, &[0; 6]));
        }
    }

    #[test]
    fn the_strictest_of_several_filters_counts() {
        let call = libc::SYS_prctl;
        let kill = 0x8000_0000;
        let two = guard(vec![on(call, ALLOW, ALLOW), on(call, kill, ALLOW)]);
        assert!(!two.permits(call, &[0; 6]));
        let errno_first = guard(vec![on(call, ERRNO | 1, ALLOW), on(call, 0x0003_0000, ALLOW)]);
        assert!(!errno_first.permits(call, &[0; 6]));
    }

    #[test]
    fn filters_look_at_both_halves_of_arguments_and_at_the_address() {
        let high = vec![
            insn(0x20, 0, 0, 16 + 8 + 4),
            insn(0x15, 0, 1, 7),
            insn(0x06, 0, 0, 0),
            insn(0x06, 0, 0, ALLOW),
        ];
        let guard = guard(vec![high]);
        assert!(guard.permits(1, &[0, 7, 0, 0, 0, 0]));
        assert!(!guard.permits(1, &[0, 7 << 32, 0, 0, 0, 0]));
        let below = vec![
            insn(0x20, 0, 0, 8),
            insn(0x35, 0, 1, 0x1000),
            insn(0x06, 0, 0, ALLOW),
            insn(0x06, 0, 0, 0),
        ];
        let guard = Guard { strict: false, filters: vec![below] };
        assert!(guard.permits_from(0x2000, 1, &[0; 6]));
        assert!(!guard.permits_from(0x800, 1, &[0; 6]));
    }

    #[test]
    fn arithmetic_and_memory_follow_the_kernel() {
        // ((nr << 4 | 3) ^ x) with x = 5, kept in a cell: (1 << 4 | 3) ^ 5 = 22.
        let program = vec![
            insn(0x20, 0, 0, 0),
            insn(0x64, 0, 0, 4),
            insn(0x44, 0, 0, 3),
            insn(0x01, 0, 0, 5),
            insn(0xac, 0, 0, 0),
            insn(0x02, 0, 0, 9),
            insn(0x00, 0, 0, 0),
            insn(0x60, 0, 0, 9),
            insn(0x16, 0, 0, 0),
        ];
        assert_eq!(run(&program, &Data::new(1, 0, &[0; 6])), Some(22));
    }

    #[test]
    fn what_is_no_filter_and_strict_mode_permit_nothing() {
        assert!(!guard(vec![vec![insn(0x28, 0, 0, 0)]]).permits(1, &[0; 6]));
        assert!(!guard(vec![vec![insn(0x20, 0, 0, 64)]]).permits(1, &[0; 6]));
        let strict = Guard { strict: true, filters: Vec::new() };
        assert!(!strict.permits(libc::SYS_prctl, &[0; 6]));
        assert!(strict.permits(libc::SYS_rt_sigreturn, &[0; 6]));
    }
}
