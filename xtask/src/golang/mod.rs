//! A Go program under an engine that dies: docker-registry of the sid tree, whose runtime preempts by
//! signals, moves small stacks about and wakes threads by futexes, keeps and serves a blob while a
//! dump of it is killed before and after its system calls: every 9th of these moments, or each with
//! CRYOPOD_EVERY_STOP set.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cryopod_testkit::death::{Look, kill_dumps, stride};

use crate::sid::{Sid, sweep};

const PROGRAM: &str = "/usr/bin/docker-registry";
const PORT: u16 = 25_050;
/// Size of the blob, and how often it is asked for again, in deaths.
const BLOB: usize = 256 << 10;
const EVERY: usize = 16;

/// Puts it into the tree, unless it is there.
const INSTALL: &str = "set -eu\ncommand -v docker-registry >/dev/null && exit\n\
                       export DEBIAN_FRONTEND=noninteractive\n\
                       apt-get update -q && apt-get install -y -q --no-install-recommends docker-registry";

/// The program while it runs.
struct Registry {
    inside: PathBuf,
    host: PathBuf,
    pid: u32,
}

impl Registry {
    fn start(sid: &Sid) -> Result<Self> {
        let arguments = ["sh", "-c", INSTALL].map(AsRef::as_ref);
        let told = sid.run(&arguments, Duration::from_secs(300))?;
        ensure!(told.status.success(), "docker-registry cannot be installed: {}", told.text);
        let inside = PathBuf::from(format!("/var/lib/cryopod-registry-{}", std::process::id()));
        let host = sid.on_host(&inside);
        std::fs::create_dir_all(&host)?;
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}/data\n\
             http:\n  addr: 127.0.0.1:{PORT}\n",
            inside.display()
        );
        std::fs::write(host.join("config.yml"), config)?;
        let script = "cd \"$1\" && exec docker-registry serve config.yml </dev/null >out 2>&1";
        let mut command = sid.command("setsid");
        command.args(["-f", "env", "-i", "PATH=/usr/bin:/bin", "/bin/sh", "-c", script, "sh"]);
        command.arg(&inside).stdout(Stdio::null());
        cryopod_testkit::isolate(&mut command);
        let mut registry = Self { inside, host, pid: 0 };
        ensure!(command.status().context("start sid run")?.success(), "sid run setsid failed");
        let program = std::fs::metadata(sid.on_host(Path::new(PROGRAM)))?;
        let end = Instant::now() + Duration::from_secs(20);
        while registry.pid == 0 || request("GET", "/v2/", &[]).is_err() {
            registry.pid = find(&program, &registry.inside).unwrap_or(0);
            if Instant::now() > end {
                bail!("docker-registry does not answer; it printed: {}", registry.printed());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(registry)
    }

    fn printed(&self) -> String {
        std::fs::read_to_string(self.host.join("out")).unwrap_or_default()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        sweep(&self.inside);
        if self.pid != 0 {
            let _ = std::process::Command::new("kill").args(["-9", &self.pid.to_string()]).status();
        }
        let _ = std::fs::remove_dir_all(&self.host);
    }
}

/// The process that runs this program in this folder.
fn find(program: &std::fs::Metadata, folder: &Path) -> Option<u32> {
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let exe = std::fs::metadata(entry.path().join("exe")).ok()?;
        let cwd = std::fs::read_link(entry.path().join("cwd")).ok()?;
        let same = exe.dev() == program.dev() && exe.ino() == program.ino();
        (same && cwd.ends_with(folder.strip_prefix("/").ok()?)).then_some(pid)
    })
}

/// One request; the whole answer.
fn request(method: &str, path: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", PORT))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost:{PORT}\r\nConnection: close\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer)
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    answer.lines().find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// Puts the blob in; the path it is found at.
fn upload(sid: &Sid, registry: &Registry, blob: &[u8]) -> Result<String> {
    std::fs::write(registry.host.join("blob"), blob)?;
    let file = registry.inside.join("blob");
    let told = sid.run(&["sha256sum".as_ref(), file.as_ref()], Duration::from_secs(30))?;
    let digest = told.text.split(' ').next().context("sha256sum says nothing")?.trim().to_owned();
    let answer = request("POST", "/v2/cryopod/test/blobs/uploads/", &[])?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let location = header(&answer, "Location").with_context(|| format!("no place: {answer}"))?;
    let path = match location.split_once(&format!(":{PORT}")) {
        Some((_, path)) => path,
        None => location,
    };
    let joint = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{joint}digest=sha256:{digest}");
    let answer = request("PUT", &path, blob)?;
    ensure!(answer.starts_with(b"HTTP/1.1 201"), "{}", String::from_utf8_lossy(&answer));
    Ok(format!("/v2/cryopod/test/blobs/sha256:{digest}"))
}

/// Kills dumps of it everywhere; true when it stays as it was.
pub(crate) fn run(sid: &Sid, engine: &Path) -> Result<bool> {
    let registry = Registry::start(sid)?;
    let blob: Vec<u8> =
        (0..BLOB as u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let path = upload(sid, &registry, &blob)?;
    let images = registry.host.join("images");
    std::fs::create_dir(&images)?;
    let before = Look::at_rest(registry.pid)?;
    let stride = stride(9);
    let (stops, outcome) = kill_dumps(engine, registry.pid, (&images, &[]), stride, |stop| {
        let now = Look::settle(registry.pid, Look::is_free)?;
        let same = now.is_free()
            && now.children == before.children
            && now.descriptors.is_superset(&before.descriptors);
        if !same {
            return Err(io::Error::other(format!("changed at stop {stop}: {before:?} {now:?}")));
        }
        if stop.is_multiple_of(EVERY) && !request("GET", &path, &[])?.ends_with(&blob) {
            return Err(io::Error::other(format!("another blob after stop {stop}")));
        }
        Ok(())
    })
    .with_context(|| format!("it printed: {}", registry.printed()))?;
    println!("docker-registry: the engine was killed at each {stride}. of {stops} stops");
    if let Err(said) = outcome {
        bail!("the first dump that was let live: {said}");
    }
    ensure!(stops > 500, "only {stops} stops: the engine did not get far");
    ensure!(request("GET", &path, &[])?.ends_with(&blob), "another blob at the end");
    let again = upload(sid, &registry, &blob[..1000])?;
    ensure!(request("GET", &again, &[])?.ends_with(&blob[..1000]), "another blob after an upload");
    Ok(true)
}
