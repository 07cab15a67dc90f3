//! Measures what it takes to bring memory into an archive, beside dd of the same bytes:
//! `write_speed FOLDER MIB ROUNDS`. The bytes are read as the engine reads those of a container, from
//! a memory file that does not compress.

#![allow(clippy::print_stdout, reason = "it tells figures")]

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cryopod_archive::ArchiveWriter;

const PART: usize = 1 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, mib, rounds] = arguments.as_slice() else {
        return Err("usage: write_speed FOLDER MIB ROUNDS".into());
    };
    let (folder, mib, rounds) = (Path::new(folder), mib.parse()?, rounds.parse::<usize>()?);
    let source = File::from(rustix::fs::memfd_create("source", rustix::fs::MemfdFlags::empty())?);
    let mut random = File::open("/dev/urandom")?;
    let mut part = vec![0; PART];
    for n in 0..mib {
        random.read_exact(&mut part)?;
        source.write_all_at(&part, n * PART as u64)?;
    }
    for _ in 0..rounds {
        let ours = quiet(|| archive(folder, &source, mib))?;
        let direct = quiet(|| dd(folder, &source, &["oflag=direct"]))?;
        let buffered = quiet(|| dd(folder, &source, &[]))?;
        println!(
            "{mib} MiB: archive {ours:?}, dd direct {direct:?}, buffered {buffered:?}: {:.2} times",
            ours.as_secs_f64() / direct.min(buffered).as_secs_f64()
        );
    }
    Ok(())
}

/// After the disk has done what came before.
fn quiet(
    run: impl FnOnce() -> Result<Duration, Box<dyn std::error::Error>>,
) -> Result<Duration, Box<dyn std::error::Error>> {
    rustix::fs::sync();
    std::thread::sleep(Duration::from_millis(300));
    run()
}

fn archive(folder: &Path, source: &File, mib: u64) -> Result<Duration, Box<dyn std::error::Error>> {
    let begun = Instant::now();
    let mut writer = ArchiveWriter::create(folder)?;
    writer.begin("pages-1.img", 0o600, true)?;
    let mut part = vec![0; PART];
    for n in 0..mib {
        source.read_exact_at(&mut part, n * PART as u64)?;
        writer.append(&part)?;
    }
    writer.end()?;
    let written = begun.elapsed();
    let path = writer.finish(OsStr::new("write-speed.tar"))?.path;
    let took = begun.elapsed();
    println!("    before the sync: {written:?}");
    std::fs::remove_file(path)?;
    Ok(took)
}

fn dd(folder: &Path, source: &File, more: &[&str]) -> Result<Duration, Box<dyn std::error::Error>> {
    let to = folder.join("write-speed.dd");
    let from = format!("if=/proc/{}/fd/{}", std::process::id(), source.as_raw_fd());
    let begun = Instant::now();
    let status = Command::new("dd")
        .args([from.as_str(), "bs=1M", "conv=fsync"])
        .arg(format!("of={}", to.display()))
        .args(more)
        .stderr(Stdio::null())
        .status()?;
    let took = begun.elapsed();
    std::fs::remove_file(to)?;
    if status.success() { Ok(took) } else { Err("dd failed".into()) }
}
