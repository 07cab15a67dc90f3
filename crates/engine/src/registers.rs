//! Processor state of a thread: general registers and the XSAVE area.
//!
//! CRIU's image holds the XSAVE area component by component; here it is taken apart and put
//! together again by the standard (not compacted) format's offsets, which CPUID leaf 0xd gives.
//! Components CRIU's image has no field for are refused when they are in use.

use cryopod_images::msg;
use cryopod_sys::ptrace::Registers;

/// Offset of the XSAVE header.
const HEADER: usize = 512;
/// Where the kernel notes the supported components (software reserved bytes).
const SUPPORTED: usize = 464;

/// Components with a field in the image: number, size in bytes.
const COMPONENTS: [(u32, usize); 8] =
    [(2, 256), (3, 64), (4, 64), (5, 64), (6, 512), (7, 1024), (9, 8), (11, 16)];

/// Components that are never in user memory but may be in the mask (CET user state).
const CET_USER: u32 = 11;

fn offset_of(component: u32) -> usize {
    let leaf = std::arch::x86_64::__cpuid_count(0xd, component);
    leaf.ebx as usize
}

fn words32(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|c| u32::from_le_bytes(*c)).collect()
}

fn words64(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks::<8>().0.iter().map(|c| u64::from_le_bytes(*c)).collect()
}

fn u32_at(area: &[u8], at: usize) -> u32 {
    words32(&area[at..at + 4])[0]
}

fn u64_at(area: &[u8], at: usize) -> u64 {
    words64(&area[at..at + 8])[0]
}

/// Takes an XSAVE area apart.
///
/// # Errors
/// The number of a component in use that the image has no field for (AMX tiles, for one).
pub fn dump_xstate(area: &[u8]) -> Result<msg::UserX86FpregsEntry, String> {
    if area.len() < HEADER + 64 {
        return Err("extended state shorter than its header".into());
    }
    let xstate_bv = u64_at(area, HEADER);
    let mut xsave = msg::UserX86XsaveEntry { xstate_bv, ..Default::default() };
    for component in 2..63 {
        if xstate_bv & (1 << component) != 0
            && !COMPONENTS.iter().any(|(known, _)| *known == component)
        {
            return Err(format!("extended processor state component {component}"));
        }
    }
    for (component, size) in COMPONENTS {
        let supported = u64_at(area, SUPPORTED) & (1 << component) != 0;
        let at = offset_of(component);
        if !supported || component == CET_USER || at + size > area.len() {
            continue;
        }
        // Components not in use hold zeroes in the standard format.
        let bytes = &area[at..at + size];
        match component {
            2 => xsave.ymmh_space = words32(bytes),
            3 => xsave.bndreg_state = words64(bytes),
            4 => xsave.bndcsr_state = words64(bytes),
            5 => xsave.opmask_reg = words64(bytes),
            6 => xsave.zmm_upper = words64(bytes),
            7 => xsave.hi16_zmm = words64(bytes),
            _ => xsave.pkru = words32(bytes),
        }
    }
    Ok(msg::UserX86FpregsEntry {
        cwd: u32_at(area, 0) & 0xffff,
        swd: u32_at(area, 0) >> 16,
        twd: u32_at(area, 4) & 0xffff,
        fop: u32_at(area, 4) >> 16,
        rip: u64_at(area, 8),
        rdp: u64_at(area, 16),
        mxcsr: u32_at(area, 24),
        mxcsr_mask: u32_at(area, 28),
        st_space: words32(&area[32..160]),
        xmm_space: words32(&area[160..416]),
        padding: vec![0; 24],
        xsave: Some(xsave),
    })
}

/// Puts an XSAVE area together; `current` is the area of the thread that gets it and gives size
/// and layout.
///
/// # Errors
/// What this processor lacks.
pub fn restore_xstate(entry: &msg::UserX86FpregsEntry, current: &[u8]) -> Result<Vec<u8>, String> {
    let mut area = vec![0u8; current.len()];
    if area.len() < HEADER + 64 {
        return Err("this machine's extended state is shorter than its header".into());
    }
    // Software reserved bytes are the kernel's.
    area[SUPPORTED..HEADER].copy_from_slice(&current[SUPPORTED..HEADER]);
    let supported = u64_at(current, SUPPORTED);
    let mut put = |at: usize, bytes: &[u8]| area[at..at + bytes.len()].copy_from_slice(bytes);
    let words = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let longs = |longs: &[u64]| longs.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    put(0, &(entry.cwd | entry.swd << 16).to_le_bytes());
    put(4, &(entry.twd | entry.fop << 16).to_le_bytes());
    put(8, &entry.rip.to_le_bytes());
    put(16, &entry.rdp.to_le_bytes());
    put(24, &entry.mxcsr.to_le_bytes());
    put(28, &entry.mxcsr_mask.to_le_bytes());
    if entry.st_space.len() != 32 || entry.xmm_space.len() != 64 {
        return Err("x87 or SSE registers are incomplete".into());
    }
    put(32, &words(&entry.st_space));
    put(160, &words(&entry.xmm_space));
    let Some(xsave) = &entry.xsave else {
        put(HEADER, &(3u64 & supported).to_le_bytes());
        return Ok(area);
    };
    for (component, size) in COMPONENTS {
        let bytes = match component {
            2 => words(&xsave.ymmh_space),
            3 => longs(&xsave.bndreg_state),
            4 => longs(&xsave.bndcsr_state),
            5 => longs(&xsave.opmask_reg),
            6 => longs(&xsave.zmm_upper),
            7 => longs(&xsave.hi16_zmm),
            9 => words(&xsave.pkru),
            _ => continue,
        };
        let used = xsave.xstate_bv & (1 << component) != 0;
        if bytes.is_empty() {
            if used {
                return Err(format!("extended state component {component} is missing"));
            }
            continue;
        }
        let at = offset_of(component);
        if supported & (1 << component) == 0 || at + size > current.len() {
            if used {
                return Err(format!("this processor lacks extended state component {component}"));
            }
            continue;
        }
        // PKRU is one word in older images, two with its padding in others.
        let len = bytes.len().min(size);
        put(at, &bytes[..len]);
    }
    put(HEADER, &(xsave.xstate_bv & supported).to_le_bytes());
    Ok(area)
}

/// General registers as the image has them.
#[must_use]
pub fn dump_general(r: &Registers) -> msg::UserX86RegsEntry {
    msg::UserX86RegsEntry {
        r15: r.r15,
        r14: r.r14,
        r13: r.r13,
        r12: r.r12,
        bp: r.rbp,
        bx: r.rbx,
        r11: r.r11,
        r10: r.r10,
        r9: r.r9,
        r8: r.r8,
        ax: r.rax,
        cx: r.rcx,
        dx: r.rdx,
        si: r.rsi,
        di: r.rdi,
        orig_ax: r.orig_rax,
        ip: r.rip,
        cs: r.cs,
        flags: r.eflags,
        sp: r.rsp,
        ss: r.ss,
        fs_base: r.fs_base,
        gs_base: r.gs_base,
        ds: r.ds,
        es: r.es,
        fs: r.fs,
        gs: r.gs,
        mode: Some(msg::UserX86RegsMode::Native.into()),
    }
}

/// General registers from the image; not in a system call, so nothing is restarted.
///
/// # Errors
/// A 32-bit task.
pub fn restore_general(e: &msg::UserX86RegsEntry) -> Result<Registers, String> {
    if e.mode() != msg::UserX86RegsMode::Native {
        return Err("a 32-bit task".into());
    }
    Ok(Registers {
        r15: e.r15,
        r14: e.r14,
        r13: e.r13,
        r12: e.r12,
        rbp: e.bp,
        rbx: e.bx,
        r11: e.r11,
        r10: e.r10,
        r9: e.r9,
        r8: e.r8,
        rax: e.ax,
        rcx: e.cx,
        rdx: e.dx,
        rsi: e.si,
        rdi: e.di,
        orig_rax: u64::MAX,
        rip: e.ip,
        cs: e.cs,
        eflags: e.flags,
        rsp: e.sp,
        ss: e.ss,
        fs_base: e.fs_base,
        gs_base: e.gs_base,
        ds: e.ds,
        es: e.es,
        fs: e.fs,
        gs: e.gs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_area_taken_apart_and_put_together_is_the_same() {
        let len = std::arch::x86_64::__cpuid_count(0xd, 0).ebx as usize;
        let mut area: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
        let supported: u64 = COMPONENTS
            .iter()
            .filter(|(c, size)| {
                let leaf = std::arch::x86_64::__cpuid_count(0xd, *c);
                *c != CET_USER && leaf.eax as usize == *size && leaf.ecx & 1 == 0
            })
            .fold(3, |mask, (c, _)| mask | 1 << c);
        area[416..SUPPORTED].fill(0);
        area[SUPPORTED..HEADER].fill(0);
        area[SUPPORTED..SUPPORTED + 8].copy_from_slice(&supported.to_le_bytes());
        area[HEADER..HEADER + 64].fill(0);
        area[HEADER..HEADER + 8].copy_from_slice(&supported.to_le_bytes());
        // Bytes between components belong to nobody.
        let mut owned = vec![false; len];
        owned[..HEADER + 64].fill(true);
        for (c, size) in COMPONENTS.iter().filter(|(c, _)| supported & (1 << c) != 0) {
            let at = offset_of(*c);
            owned[at..at + size].fill(true);
        }
        for (byte, owned) in area.iter_mut().zip(&owned) {
            if !owned {
                *byte = 0;
            }
        }
        let entry = dump_xstate(&area).unwrap();
        assert_eq!(restore_xstate(&entry, &area).unwrap(), area);
    }

    #[test]
    fn a_component_without_a_field_is_refused() {
        let mut area = vec![0u8; HEADER + 64];
        area[HEADER..HEADER + 8].copy_from_slice(&(1u64 << 18).to_le_bytes());
        assert!(dump_xstate(&area).unwrap_err().contains("18"));
    }
}
