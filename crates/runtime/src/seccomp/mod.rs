//! Seccomp profiles: OCI's JSON, made into a BPF program; and the usual profile.
//!
//! The program (seccomp(2)) finds a call's number in a binary tree of ranges, so that an allow list
//! of 300 calls costs nine comparisons; rules with arguments are tried in their order. Calls of
//! another architecture than the machine's own get the default action. `SCMP_ACT_NOTIFY` is refused:
//! nobody would listen.

mod names;
mod program;

use std::fs;

use serde_json::{Value, json};

use crate::config::SeccompPolicy;
use crate::error::RuntimeError;
pub(crate) use program::{SeccompError, compile};

/// The profile of a policy in OCI's form; `None`: everything is allowed. `capabilities` are the
/// names of the bounding set: a call that a capability guards is allowed with it.
pub(crate) fn profile(
    policy: &SeccompPolicy,
    capabilities: &[String],
) -> Result<Option<Value>, RuntimeError> {
    match policy {
        SeccompPolicy::Unconfined => Ok(None),
        SeccompPolicy::RuntimeDefault => Ok(Some(usual(capabilities))),
        SeccompPolicy::Profile(path) => {
            let bytes = fs::read(path).map_err(crate::record::io_error("read", path))?;
            let value: Value = serde_json::from_slice(&bytes)
                .map_err(|source| RuntimeError::Record { path: path.clone(), source })?;
            let invalid =
                |reason: String| RuntimeError::InvalidArgument { field: "seccomp", reason };
            let typed = serde_json::from_value(value.clone())
                .map_err(|e| invalid(format!("{path:?}: {e}")))?;
            compile(&typed).map_err(|e| invalid(format!("{path:?}: {e}")))?;
            Ok(Some(value))
        }
    }
}

/// Calls no container needs: keys of the kernel, other kernels, swap, memory tricks, and what was
/// never finished or is long gone.
const NEVER: [&str; 32] = [
    "_sysctl",
    "add_key",
    "afs_syscall",
    "create_module",
    "epoll_ctl_old",
    "epoll_wait_old",
    "get_kernel_syms",
    "getpmsg",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lsm_set_self_attr",
    "migrate_pages",
    "move_pages",
    "nfsservctl",
    "pivot_root",
    "putpmsg",
    "query_module",
    "request_key",
    "security",
    "swapoff",
    "swapon",
    "sysfs",
    "tuxcall",
    "uselib",
    "userfaultfd",
    "ustat",
    "vserver",
    "personality",
];

/// Calls that are allowed with a capability.
const GUARDED: [(&str, &[&str]); 12] = [
    (
        "CAP_SYS_ADMIN",
        &[
            "bpf",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "listmount",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "statmount",
            "syslog",
            "umount2",
            "unshare",
            "clone3",
        ],
    ),
    ("CAP_SYS_BOOT", &["reboot"]),
    ("CAP_SYS_CHROOT", &["chroot"]),
    ("CAP_SYS_MODULE", &["delete_module", "finit_module", "init_module"]),
    ("CAP_SYS_PACCT", &["acct"]),
    ("CAP_SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("CAP_SYS_RAWIO", &["ioperm", "iopl"]),
    ("CAP_SYS_TIME", &["clock_adjtime", "clock_settime", "settimeofday"]),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
    ("CAP_SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("CAP_SYSLOG", &["syslog"]),
    ("CAP_BPF", &["bpf"]),
];

/// Namespace flags of clone(2), which without CAP_SYS_ADMIN must not be given.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// The usual profile: what an ordinary program needs, the rest fails with EPERM.
fn usual(capabilities: &[String]) -> Value {
    let has = |name: &str| capabilities.iter().any(|c| c == name);
    let guarded =
        |call: &str| GUARDED.iter().filter(|(_, calls)| calls.contains(&call)).collect::<Vec<_>>();
    let allowed: Vec<&str> = names::all()
        .filter(|call| !NEVER.contains(call) && *call != "clone" && *call != "socket")
        .filter(|call| {
            let guards = guarded(call);
            guards.is_empty() || guards.iter().any(|(capability, _)| has(capability))
        })
        .collect();
    let mut rules = vec![json!({"names": allowed, "action": "SCMP_ACT_ALLOW"})];
    for value in [0u64, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        rules.push(json!({"names": ["personality"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]}));
    }
    // Sockets to the machine's own hypervisor would reach around every network policy.
    const AF_VSOCK: u64 = 40;
    rules.push(json!({"names": ["socket"], "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_NE"}]}));
    if has("CAP_SYS_ADMIN") {
        rules.push(json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW"}));
    } else {
        rules.push(json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": NEW_NAMESPACES, "valueTwo": 0,
                "op": "SCMP_CMP_MASKED_EQ"}]}));
        // Its flags lie in memory, out of a filter's sight: callers fall back to clone on ENOSYS.
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO",
            "errnoRet": libc::ENOSYS}));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": rules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_profile_names_only_calls_that_exist_and_compiles() {
        for (_, calls) in GUARDED {
            for call in calls {
                assert!(names::number(call).is_some(), "{call}");
            }
        }
        let profile = serde_json::from_value(usual(&[])).unwrap();
        assert!(compile(&profile).unwrap().len() < 1000);
    }

    #[test]
    fn a_capability_opens_the_calls_it_guards() {
        let text = |capabilities: &[String]| usual(capabilities)["syscalls"][0].to_string();
        assert!(!text(&[]).contains("\"mount\""));
        assert!(text(&["CAP_SYS_ADMIN".into()]).contains("\"mount\""));
    }
}
