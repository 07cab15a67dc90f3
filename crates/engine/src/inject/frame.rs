//! The signal frame that brings an abandoned thread back by itself.
//!
//! While a thread runs system calls for us, the registers it had lie in a signal frame in its own
//! memory. Should the engine die, the stub goes on to rt_sigreturn(2), which takes everything from
//! that frame: registers, extended state and signal mask. Layout: `struct rt_sigframe` of
//! arch/x86/include/asm/sigframe.h, extended state as in signal(7) "software reserved" bytes.

use cryopod_sys::ptrace::Registers;

/// `uc_flags`: extended state follows, %ss is valid, and it is to be restored strictly.
const UC_FLAGS: u64 = 1 | 2 | 4;
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
/// pretcode + ucontext (flags, link, stack, sigcontext, mask) + siginfo.
const HEAD: usize = 8 + 8 + 8 + 24 + 256 + 8 + 128;
/// Where the software reserved bytes lie within the FXSAVE area.
const SW_RESERVED: usize = 464;

/// What a frame is built from.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    /// Registers to go on with; an interrupted system call is already resolved in them.
    pub registers: &'a Registers,
    /// XSAVE area in the standard format.
    pub xstate: &'a [u8],
    /// Signal mask to go on with.
    pub mask: u64,
}

/// Bytes needed for a frame with an XSAVE area of `xstate` bytes, wherever it starts.
#[must_use]
pub fn size(xstate: usize) -> usize {
    HEAD + 64 + xstate + 4
}

/// Builds the frame for address `at`, which must be a multiple of 16. rt_sigreturn finds it when
/// %rsp is [`stack_pointer`].
#[must_use]
pub fn build(at: u64, content: Content<'_>) -> Vec<u8> {
    let r = content.registers;
    let fpstate = (at + HEAD as u64).next_multiple_of(64);
    let fp_at = (fpstate - at) as usize;
    let mut out = vec![0u8; fp_at + content.xstate.len() + 4];

    let mut put = |offset: usize, value: u64| {
        out[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    };
    put(8, UC_FLAGS);
    // uc_stack: flags that sigaltstack refuses, so that the thread's own alternate stack stays
    // (rt_sigreturn ignores that refusal).
    put(8 + 16 + 8, 0xff);
    // After pretcode (8), uc_flags and uc_link (16) and uc_stack (24).
    let context = 48;
    let registers = [
        r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx,
        r.rax, r.rcx, r.rsp, r.rip, r.eflags,
    ];
    for (i, value) in registers.into_iter().enumerate() {
        put(context + i * 8, value);
    }
    // cs, gs, fs, ss, 16 bits each.
    put(context + 18 * 8, (r.cs & 0xffff) | (r.ss & 0xffff) << 48);
    put(context + 23 * 8, fpstate);
    put(context + 256, content.mask);

    let size = content.xstate.len() as u32;
    out[fp_at..fp_at + content.xstate.len()].copy_from_slice(content.xstate);
    let xfeatures = xfeatures(content.xstate);
    let reserved = &mut out[fp_at + SW_RESERVED..fp_at + 512];
    reserved.fill(0);
    reserved[0..4].copy_from_slice(&MAGIC1.to_le_bytes());
    reserved[4..8].copy_from_slice(&(size + 4).to_le_bytes());
    reserved[8..16].copy_from_slice(&xfeatures.to_le_bytes());
    reserved[16..20].copy_from_slice(&size.to_le_bytes());
    let end = fp_at + content.xstate.len();
    out[end..end + 4].copy_from_slice(&MAGIC2.to_le_bytes());
    out
}

/// %rsp for a thread whose frame lies at `at`: the return address is taken as already popped.
#[must_use]
pub fn stack_pointer(at: u64) -> u64 {
    at + 8
}

/// The mask of state components the kernel supports, which it notes in the XSAVE area it hands
/// out through ptrace.
fn xfeatures(xstate: &[u8]) -> u64 {
    xstate
        .get(SW_RESERVED..SW_RESERVED + 8)
        .and_then(|b| b.try_into().ok())
        .map_or(3, u64::from_le_bytes)
}
