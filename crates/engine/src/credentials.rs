//! Credentials of a thread: ids, groups, capability sets, securebits, no_new_privs.
//!
//! All but the securebits are in /proc/PID/task/TID/status; those the kernel tells otherwise ([`crate::proc::kernel`]). At restore they are set by the thread
//! itself as its last remote calls, in an order in which each step still has the right to the next:
//! keep capabilities over the change of ids, drop the bounding set, set ids and groups, then the
//! sets, then securebits, then no_new_privs.

use std::io;

use cryopod_images::msg;

use crate::inject::calls::Scratch;
use crate::inject::{Remote, Space};
use crate::proc::status::Status;

/// Highest capability number known to the image (two 32-bit words).
const LAST_CAP: u32 = 63;
const CAP_VERSION_3: u32 = 0x2008_0522;

fn words(mask: u64) -> Vec<u32> {
    vec![mask as u32, (mask >> 32) as u32]
}

fn mask(words: &[u32]) -> u64 {
    words.iter().take(2).rev().fold(0, |mask, word| mask << 32 | u64::from(*word))
}

/// Credentials as the image has them.
#[must_use]
pub fn dump(status: &Status, secbits: u32) -> msg::CredsEntry {
    let caps = &status.capabilities;
    msg::CredsEntry {
        uid: status.uid[0],
        euid: status.uid[1],
        suid: status.uid[2],
        fsuid: status.uid[3],
        gid: status.gid[0],
        egid: status.gid[1],
        sgid: status.gid[2],
        fsgid: status.gid[3],
        cap_inh: words(caps.inheritable),
        cap_prm: words(caps.permitted),
        cap_eff: words(caps.effective),
        cap_bnd: words(caps.bounding),
        cap_amb: words(caps.ambient),
        secbits,
        groups: status.groups.clone(),
        no_new_privs: status.no_new_privs.then_some(1),
        lsm_profile: None,
        lsm_sockcreate: None,
        apparmor_data: None,
    }
}

/// Gives a thread its credentials; the last step before its registers.
///
/// # Errors
/// Those of the remote calls, with EPERM when the engine lacks a capability the archive has.
pub fn restore(
    creds: &msg::CredsEntry,
    remote: &mut Remote,
    space: &Space,
    scratch: Scratch,
) -> io::Result<()> {
    let groups: Vec<u8> = creds.groups.iter().flat_map(|g| g.to_le_bytes()).collect();
    remote.call_in(
        space,
        scratch,
        libc::SYS_setgroups,
        [creds.groups.len() as u64, 0, 0, 0, 0, 0],
        1,
        &groups,
    )?;
    // SECBIT_NO_SETUID_FIXUP: the change of ids below leaves the capability sets alone.
    const NO_SETUID_FIXUP: u64 = 1 << 2;
    remote.prctl(libc::PR_SET_SECUREBITS, [NO_SETUID_FIXUP, 0, 0, 0])?;
    let bounding = mask(&creds.cap_bnd);
    for cap in 0..=LAST_CAP {
        if bounding & (1 << cap) == 0 {
            let has = remote.prctl(libc::PR_CAPBSET_READ, [u64::from(cap), 0, 0, 0]);
            if matches!(has, Ok(1)) {
                remote.prctl(libc::PR_CAPBSET_DROP, [u64::from(cap), 0, 0, 0])?;
            }
        }
    }
    let ids = |a: u32, b: u32, c: u32| [u64::from(a), u64::from(b), u64::from(c), 0, 0, 0];
    remote.call(libc::SYS_setresgid, ids(creds.gid, creds.egid, creds.sgid))?;
    remote.call(libc::SYS_setfsgid, ids(creds.fsgid, 0, 0))?;
    remote.call(libc::SYS_setresuid, ids(creds.uid, creds.euid, creds.suid))?;
    remote.call(libc::SYS_setfsuid, ids(creds.fsuid, 0, 0))?;
    // Securebits while CAP_SETPCAP is still effective.
    remote.prctl(libc::PR_SET_SECUREBITS, [u64::from(creds.secbits), 0, 0, 0])?;

    // struct __user_cap_header, then two struct __user_cap_data: effective, permitted, inheritable.
    let (eff, prm, inh) = (mask(&creds.cap_eff), mask(&creds.cap_prm), mask(&creds.cap_inh));
    let mut bytes = Vec::with_capacity(32);
    bytes.extend(CAP_VERSION_3.to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    for shift in [0, 32] {
        for set in [eff, prm, inh] {
            bytes.extend(((set >> shift) as u32).to_le_bytes());
        }
    }
    space.write(scratch.at, &bytes)?;
    remote.call(libc::SYS_capset, [scratch.at, scratch.at + 8, 0, 0, 0, 0])?;
    let ambient = mask(&creds.cap_amb);
    for cap in (0..=LAST_CAP).filter(|cap| ambient & (1 << cap) != 0) {
        remote.prctl(
            libc::PR_CAP_AMBIENT,
            [libc::PR_CAP_AMBIENT_RAISE as u64, u64::from(cap), 0, 0],
        )?;
    }
    if creds.no_new_privs.unwrap_or(0) != 0 {
        remote.prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capability_words_are_lowest_first() {
        assert_eq!(words(0x1_0000_0002), [2, 1]);
        assert_eq!(mask(&[2, 1]), 0x1_0000_0002);
        assert_eq!(mask(&[2]), 2);
    }
}
