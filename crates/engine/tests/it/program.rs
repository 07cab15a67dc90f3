//! The example program `engine`, which `cargo test` builds beside the tests.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where it is.
pub(crate) fn path() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    profile.join("examples/engine")
}

fn run(args: &[&str], images: &Path) -> Result<String, String> {
    let out = Command::new(path())
        .args(args)
        .arg("--images")
        .arg(images)
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("the example `engine` is built with the tests");
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&out.stderr).into_owned())
    }
}

/// Dumps process `pid` into `images`.
pub(crate) fn dump(pid: u32, images: &Path, leave_running: bool) -> Result<String, String> {
    let more: &[&str] = if leave_running { &["--leave-running"] } else { &[] };
    dump_with(pid, images, more)
}

/// Dumps process `pid` into `images`, with further options.
pub(crate) fn dump_with(pid: u32, images: &Path, more: &[&str]) -> Result<String, String> {
    let pid = pid.to_string();
    run(&[&["dump", "--pid", &pid], more].concat(), images)
}

/// Restores from `images`.
pub(crate) fn restore(images: &Path) -> Result<String, String> {
    run(&["restore"], images)
}

/// Restores from `images`, with further options.
pub(crate) fn restore_with(images: &Path, more: &[&str]) -> Result<String, String> {
    run(&[&["restore"], more].concat(), images)
}
