//! Stock criu in the sid tree: its two commands, and the words of its log when it fails.

use std::ffi::OsStr;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::sid::{Guest, Sid};

const LIMIT: Duration = Duration::from_secs(20);

/// `criu dump`: the guest is ended by it.
pub(crate) fn dump(sid: &Sid, guest: &Guest, options: &[&str]) -> Result<()> {
    let pid = guest.pid.to_string();
    command(sid, guest, "dump", &["-t", &pid], options)
}

/// `criu restore`: the guest runs when it returns.
pub(crate) fn restore(sid: &Sid, guest: &Guest, options: &[&str]) -> Result<()> {
    command(sid, guest, "restore", &["-d"], options)
}

fn command(sid: &Sid, guest: &Guest, verb: &str, own: &[&str], options: &[&str]) -> Result<()> {
    let images = guest.images()?;
    let log = format!("{verb}.log");
    let mut arguments: Vec<&OsStr> = vec![OsStr::new("criu"), OsStr::new(verb)];
    arguments.extend(["-v4", "-o", &log, "-D"].map(OsStr::new));
    arguments.push(images.as_os_str());
    arguments.extend(own.iter().chain(options).map(OsStr::new));
    let answer = sid.run(&arguments, LIMIT)?;
    if answer.status.success() {
        return Ok(());
    }
    let text = guest.log(&log);
    let errors: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("Error"))
        // said on every machine of ours and harmless there
        .filter(|line| !line.contains("Can't setup RLIMIT_NOFILE for self"))
        .collect();
    let words = if errors.is_empty() { answer.text } else { errors.join("; ") };
    bail!("criu {verb}: {words} ({})", answer.status)
}
