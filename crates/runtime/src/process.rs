//! Becoming the program of a spec: limits, user, capabilities, filter, exec.
//!
//! The last steps of a container's first process and of a command run in it. The order follows from
//! what each step needs: everything that needs privilege comes before the user changes, and a filter
//! is installed early when only privilege allows that (no `no_new_privs`), else last.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use cryopod_sys::filter;
use cryopod_sys::spawn::{close_on_exec_from, execve, reset_signals};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag, Process};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Gid, Resource, Rlimit, Uid, setrlimit};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::capability::{CapabilityError, Set, Sets};
use crate::seccomp::{SeccompError, compile};

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    #[error("the spec has no {what}")]
    Incomplete { what: &'static str },
    #[error("{what} {value:?}")]
    Step { what: &'static str, value: String, source: io::Error },
    #[error("limit {kind}: soft {soft}, hard {hard}")]
    Limit { kind: String, soft: u64, hard: u64, source: io::Error },
    #[error("capability {name:?} is not known")]
    CapabilityName { name: String },
    #[error("capabilities")]
    Capability(#[source] CapabilityError),
    #[error("seccomp profile")]
    Seccomp(#[source] SeccompError),
    #[error("no program {program:?} in PATH {path:?}")]
    NotFound { program: String, path: String },
    #[error("start {program:?}")]
    Exec { program: PathBuf, source: io::Error },
}

fn step<E: Into<io::Error>>(
    what: &'static str,
    value: impl std::fmt::Display,
) -> impl FnOnce(E) -> ProcessError {
    let value = value.to_string();
    move |e| ProcessError::Step { what, value, source: e.into() }
}

/// Descriptors that become 0, 1 and 2; `None`: the container's `/dev/null`.
#[derive(Debug, Default)]
pub(crate) struct Stdio {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// Becomes the program. Returns only when that failed.
pub(crate) fn become_program(
    process: &Process,
    seccomp: Option<&LinuxSeccomp>,
    stdio: Stdio,
) -> ProcessError {
    match prepare(process, seccomp, stdio) {
        Ok((program, args, env)) => {
            let source = execve(program.as_os_str(), &args, &env);
            ProcessError::Exec { program, source }
        }
        Err(error) => error,
    }
}

type Ready = (PathBuf, Vec<CString>, Vec<CString>);

fn prepare(
    process: &Process,
    seccomp: Option<&LinuxSeccomp>,
    stdio: Stdio,
) -> Result<Ready, ProcessError> {
    let no_new_privs = process.no_new_privileges().unwrap_or(false);
    let program_filter = match seccomp {
        Some(profile) => {
            Some((compile(profile).map_err(ProcessError::Seccomp)?, filter_flags(profile)))
        }
        None => None,
    };
    let install = |filter: &Option<(Vec<filter::Instruction>, u32)>| match filter {
        Some((program, flags)) => {
            filter::install(program, *flags).map_err(step("install", "the seccomp filter"))
        }
        None => Ok(()),
    };
    for limit in process.rlimits().iter().flatten() {
        let (kind, soft, hard) = (limit.typ().to_string(), limit.soft(), limit.hard());
        let resource = resource(&kind).ok_or(ProcessError::Incomplete { what: "such limit" })?;
        let number = |n: u64| (n != u64::MAX).then_some(n);
        setrlimit(resource, Rlimit { current: number(soft), maximum: number(hard) })
            .map_err(|e| ProcessError::Limit { kind, soft, hard, source: e.into() })?;
    }
    if let Some(score) = process.oom_score_adj() {
        fs::write("/proc/self/oom_score_adj", score.to_string())
            .map_err(step("set oom_score_adj to", score))?;
    }
    make_cwd(process.cwd());
    take_stdio(stdio)?;
    close_on_exec_from(3).map_err(step("close", "descriptors"))?;
    let user = process.user();
    let umask = Mode::from_raw_mode(user.umask().unwrap_or(0o022));
    rustix::process::umask(umask);
    let sets = sets(process)?;
    if !no_new_privs {
        install(&program_filter)?;
    }
    sets.apply_bounding().map_err(ProcessError::Capability)?;
    take_user(user.uid(), user.gid(), user.additional_gids().as_deref().unwrap_or_default())?;
    // As the user, who may be kept out of folders that root may enter.
    rustix::process::chdir(process.cwd()).map_err(step("enter", process.cwd().display()))?;
    let env = process.env().clone().unwrap_or_default();
    let args = process.args().clone().unwrap_or_default();
    let program = find(&args, &env)?;
    reset_signals().map_err(step("reset", "signals"))?;
    sets.apply().map_err(ProcessError::Capability)?;
    if no_new_privs {
        rustix::thread::set_no_new_privs(true).map_err(step("set", "no_new_privs"))?;
        install(&program_filter)?;
    }
    let strings = |list: Vec<String>| {
        list.into_iter()
            .map(|s| CString::new(s).map_err(step("pass on", "a text with a zero byte")))
            .collect::<Result<Vec<_>, _>>()
    };
    Ok((program, strings(args)?, strings(env)?))
}

fn filter_flags(profile: &LinuxSeccomp) -> u32 {
    profile.flags().iter().flatten().fold(0, |flags, flag| match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => flags | filter::FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => flags | filter::FLAG_SPEC_ALLOW,
        _ => flags,
    })
}

/// A working folder that the image lacks is made, as all runtimes do; what stands in the way shows
/// when it is entered.
fn make_cwd(cwd: &Path) {
    let _ = fs::create_dir_all(cwd);
}

fn take_stdio(stdio: Stdio) -> Result<(), ProcessError> {
    let null = || {
        rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(step("open", "/dev/null"))
    };
    let or_null = |fd: Option<OwnedFd>| fd.map_or_else(null, Ok);
    let (stdin, stdout, stderr) =
        (or_null(stdio.stdin)?, or_null(stdio.stdout)?, or_null(stdio.stderr)?);
    // The new numbers may be those of descriptors still needed: first all move out of the way.
    let [stdin, stdout, stderr] = [stdin, stdout, stderr].map(|fd| {
        rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 10).map_err(step("copy", "a descriptor"))
    });
    let (stdin, stdout, stderr) = (stdin?, stdout?, stderr?);
    dup2_stdin(&stdin).map_err(step("take", "standard input"))?;
    dup2_stdout(&stdout).map_err(step("take", "standard output"))?;
    dup2_stderr(&stderr).map_err(step("take", "standard error"))
}

fn sets(process: &Process) -> Result<Sets, ProcessError> {
    let Some(capabilities) = process.capabilities() else {
        return Ok(Sets::default());
    };
    let set = |names: &Option<oci_spec::runtime::Capabilities>| {
        Set::from_names(names.iter().flatten().map(ToString::to_string))
            .map_err(|name| ProcessError::CapabilityName { name })
    };
    Ok(Sets {
        bounding: set(capabilities.bounding())?,
        effective: set(capabilities.effective())?,
        permitted: set(capabilities.permitted())?,
        inheritable: set(capabilities.inheritable())?,
        ambient: set(capabilities.ambient())?,
    })
}

/// Changes user and groups and keeps the capabilities; the sets are set after this.
fn take_user(uid: u32, gid: u32, groups: &[u32]) -> Result<(), ProcessError> {
    rustix::thread::set_keep_capabilities(true).map_err(step("keep", "capabilities"))?;
    let groups: Vec<Gid> = groups.iter().map(|g| Gid::from_raw(*g)).collect();
    rustix::thread::set_thread_groups(&groups).map_err(step("set", "groups"))?;
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_thread_res_gid(group, group, group).map_err(step("become group", gid))?;
    rustix::thread::set_thread_res_uid(user, user, user).map_err(step("become user", uid))?;
    // The effective set was cleared with the user: what is permitted still, is taken back for the
    // steps that follow.
    let mut own = rustix::thread::capabilities(None).map_err(step("read", "capabilities"))?;
    own.effective = own.permitted;
    rustix::thread::set_capabilities(None, own).map_err(step("set", "capabilities"))?;
    rustix::thread::set_keep_capabilities(false).map_err(step("reset", "keep capabilities"))
}

/// The file of a program: as given when it holds a `/`, else the first in PATH that can be run.
fn find(args: &[String], env: &[String]) -> Result<PathBuf, ProcessError> {
    let program = args.first().ok_or(ProcessError::Incomplete { what: "program" })?;
    if program.contains('/') {
        return Ok(program.into());
    }
    let path = env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default();
    let runnable = |file: &Path| {
        fs::metadata(file).is_ok_and(|m| m.is_file())
            && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
    };
    path.split(':')
        .map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(program))
        .find(|file| runnable(file))
        .ok_or_else(|| ProcessError::NotFound { program: program.clone(), path: path.into() })
}

/// A resource limit by its name.
pub(crate) fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "RLIMIT_AS" => Resource::As,
        "RLIMIT_CORE" => Resource::Core,
        "RLIMIT_CPU" => Resource::Cpu,
        "RLIMIT_DATA" => Resource::Data,
        "RLIMIT_FSIZE" => Resource::Fsize,
        "RLIMIT_LOCKS" => Resource::Locks,
        "RLIMIT_MEMLOCK" => Resource::Memlock,
        "RLIMIT_MSGQUEUE" => Resource::Msgqueue,
        "RLIMIT_NICE" => Resource::Nice,
        "RLIMIT_NOFILE" => Resource::Nofile,
        "RLIMIT_NPROC" => Resource::Nproc,
        "RLIMIT_RSS" => Resource::Rss,
        "RLIMIT_RTPRIO" => Resource::Rtprio,
        "RLIMIT_RTTIME" => Resource::Rttime,
        "RLIMIT_SIGPENDING" => Resource::Sigpending,
        "RLIMIT_STACK" => Resource::Stack,
        _ => return None,
    })
}

/// A signal by name, with or without `SIG`, or by number.
pub(crate) fn signal(name: &str) -> Option<i32> {
    let upper = name.trim().to_ascii_uppercase();
    if let Ok(number) = upper.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = short.strip_prefix("RTMIN") {
        let offset = if offset.is_empty() { 0 } else { offset.strip_prefix('+')?.parse().ok()? };
        return (0..=30).contains(&offset).then_some(34 + offset);
    }
    let names = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    names.iter().position(|n| *n == short).and_then(|n| i32::try_from(n + 1).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        assert_eq!(signal("SIGTERM"), Some(15));
        assert_eq!(signal("quit"), Some(3));
        assert_eq!(signal("9"), Some(9));
        assert_eq!(signal("SIGRTMIN+3"), Some(37));
        assert_eq!(signal("SIGSYS"), Some(31));
        assert_eq!(signal("SIGNOPE"), None);
        assert_eq!(signal("0"), None);
    }

    #[test]
    fn a_program_without_a_slash_is_looked_up_in_path() {
        let env = ["PATH=/nonexistent:/bin".to_owned()];
        assert_eq!(find(&["sh".into()], &env).unwrap(), Path::new("/bin/sh"));
        assert!(find(&["no-such-program".into()], &env).is_err());
    }
}
