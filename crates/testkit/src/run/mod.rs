//! Runs a victim: an empty folder of its own, a session of its own, no descriptor but 0, 1, 2.
//!
//! The executable is copied beside the working folder, so that every process that runs this copy is known to belong to
//! this run, whatever forked, orphaned or restored it: that is how [`Workplace::kill_all`] finds them (the device and
//! inode of `/proc/PID/exe`; proc(5)).
#![allow(
    unsafe_code,
    reason = "closes inherited descriptors and makes a session between fork and exec"
)]

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Owned, Victim};

/// What a victim found of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Everything is as it was.
    Ok,
    /// Something is lost or changed; the victim's words.
    Fail(String),
    /// The machine lacks what the victim is about; the victim's words.
    Skip(String),
}

/// Why a victim could not be run or gave no verdict.
#[derive(Debug, thiserror::Error)]
pub enum VictimError {
    /// A file or process operation failed.
    #[error("{what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Its verdict is there before it was ready.
    #[error("{name} gave a verdict before it was ready: {verdict:?}")]
    Early {
        /// The victim.
        name: String,
        /// What it said.
        verdict: Verdict,
    },
    /// It did not get there in time.
    #[error("{name} is not {wanted} after {limit:?}; it printed: {printed}")]
    Late {
        /// The victim.
        name: String,
        /// The file waited for.
        wanted: &'static str,
        /// The time given.
        limit: Duration,
        /// What it wrote to its standard output and error.
        printed: String,
    },
    /// It ended and left no verdict.
    #[error("{name} (pid {pid}) ended without a verdict ({how}); it printed: {printed}")]
    Died {
        /// The victim.
        name: String,
        /// Its process.
        pid: u32,
        /// Its exit status, when it was our child.
        how: String,
        /// What it wrote to its standard output and error.
        printed: String,
    },
}

/// The folder of one run: `bin/NAME`, the copy of the executable, and `work`, where the victim runs.
#[derive(Debug)]
pub struct Workplace {
    name: String,
    base: PathBuf,
}

impl Workplace {
    /// Makes the folder `base` (which must not exist, or be empty) for one run of `victim`.
    ///
    /// # Errors
    /// When a folder cannot be made or the executable cannot be copied.
    pub fn new(victim: &Victim, base: &Path) -> Result<Self, VictimError> {
        let place = Workplace { name: victim.name.to_owned(), base: base.to_owned() };
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |source| VictimError::Io { what, path, source }
        };
        let bin = base.join("bin");
        fs::create_dir_all(&bin).map_err(io("make the folder", &bin))?;
        fs::create_dir_all(place.work()).map_err(io("make the folder", &place.work()))?;
        fs::copy(victim.path, place.executable()).map_err(io("copy to", &place.executable()))?;
        Ok(place)
    }

    /// The victim's working folder.
    pub fn work(&self) -> PathBuf {
        self.base.join("work")
    }

    /// The copy of the executable that this run uses.
    pub fn executable(&self) -> PathBuf {
        self.base.join("bin").join(&self.name)
    }

    /// Lets the victim go on to its checks.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn go(&self) -> Result<(), VictimError> {
        let path = self.work().join("go");
        fs::write(&path, "").map_err(|source| VictimError::Io { what: "write", path, source })
    }

    /// Whether the victim has set up its object.
    pub fn is_ready(&self) -> bool {
        self.work().join("ready").exists()
    }

    /// The victim's verdict, when it has one.
    pub fn verdict(&self) -> Option<Verdict> {
        let text = fs::read_to_string(self.work().join("result")).ok()?;
        let text = text.trim_end();
        Some(if text == "ok" {
            Verdict::Ok
        } else if let Some(why) = text.strip_prefix("skip: ") {
            Verdict::Skip(why.to_owned())
        } else {
            Verdict::Fail(text.strip_prefix("fail: ").unwrap_or(text).to_owned())
        })
    }

    /// What the victim wrote to its standard output and error.
    pub fn printed(&self) -> String {
        let read = |name| fs::read_to_string(self.work().join(name)).unwrap_or_default();
        read("out") + &read("err")
    }

    /// The processes that run this copy of the executable, as this process's /proc numbers them.
    pub fn processes(&self) -> Vec<u32> {
        let Ok(own) = fs::metadata(self.executable()) else { return Vec::new() };
        let Ok(listing) = fs::read_dir("/proc") else { return Vec::new() };
        listing
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
            .filter(|pid| {
                fs::metadata(format!("/proc/{pid}/exe"))
                    .is_ok_and(|exe| exe.dev() == own.dev() && exe.ino() == own.ino())
            })
            .collect()
    }

    /// Ends every process of this run, and waits until they are gone from /proc or are zombies of another.
    pub fn kill_all(&self) {
        for _ in 0..200 {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            for pid in left {
                // SAFETY: kill takes two integers; the pid was just seen running this run's own executable.
                unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the verdict of a victim that runs as `pid`, whoever's child it is.
    ///
    /// # Errors
    /// [`VictimError::Died`] when the process is gone and left none, [`VictimError::Late`] after `limit`.
    pub fn await_verdict(&self, pid: u32, limit: Duration) -> Result<Verdict, VictimError> {
        self.await_file(pid, None, "result", limit, || self.verdict())
    }

    fn await_file<T>(
        &self,
        pid: u32,
        mut child: Option<&mut Child>,
        wanted: &'static str,
        limit: Duration,
        look: impl Fn() -> Option<T>,
    ) -> Result<T, VictimError> {
        let end = Instant::now() + limit;
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            let ended = match child.as_deref_mut().map(Child::try_wait) {
                Some(Ok(status)) => status.map(|s| match s.signal() {
                    Some(signal) => format!("signal {signal}"),
                    None => format!("exit {}", s.code().unwrap_or(-1)),
                }),
                _ => is_gone(pid).then(|| "gone".to_owned()),
            };
            if let Some(how) = ended {
                // it may have written its verdict just before it ended
                return look().ok_or_else(|| VictimError::Died {
                    name: self.name.clone(),
                    pid,
                    how,
                    printed: self.printed(),
                });
            }
            if Instant::now() > end {
                return Err(VictimError::Late {
                    name: self.name.clone(),
                    wanted,
                    limit,
                    printed: self.printed(),
                });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Makes `command` start in a session of its own and without any descriptor but 0, 1 and 2: what a tool or shell above
/// leaked would end in the images.
pub fn isolate(command: &mut Command) {
    // SAFETY: both calls are async-signal-safe (signal-safety(7)), take integers only, and touch only the child.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() == -1 {
                return Err(io::Error::last_os_error());
            }
            // marked, not closed: std reports a failing exec through one of them
            let all = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
            if libc::close_range(3, libc::c_uint::MAX, all) == -1 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

fn is_gone(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X'])),
        Err(_) => true,
    }
}

/// A victim started by this process; ended when dropped, with all its processes.
#[derive(Debug)]
pub struct Running {
    place: Workplace,
    child: Child,
    /// Its pid may be restored after [`Running::kill`], and is nobody's then.
    owned: Option<Owned>,
}

impl Running {
    /// Starts `victim` in `base` (see [`Workplace::new`]) with these arguments, in a session of its own.
    ///
    /// # Errors
    /// When the folder cannot be made or the program cannot be started.
    pub fn start(victim: &Victim, base: &Path, arguments: &[&str]) -> Result<Self, VictimError> {
        let place = Workplace::new(victim, base)?;
        let io = |what, path: PathBuf| move |source| VictimError::Io { what, path, source };
        let open = |name: &str| {
            let path = place.work().join(name);
            fs::File::create(&path).map_err(io("make", path))
        };
        let (out, err) = (open("out")?, open("err")?);
        let mut command = Command::new(place.executable());
        command.args(arguments).current_dir(place.work()).env_clear();
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        isolate(&mut command);
        // a child that another thread forks while the copy is written holds it open until its own exec (ETXTBSY)
        let mut tries = 0;
        let (child, owned) = loop {
            match Owned::start(|| command.spawn(), Child::id) {
                Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) && tries < 200 => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(5));
                }
                other => break other.map_err(io("start", place.executable()))?,
            }
        };
        Ok(Running { place, child, owned: Some(owned) })
    }

    /// Starts `victim` and waits until its object is set up.
    ///
    /// # Errors
    /// As [`Running::start`]; and when it ends, gives a verdict, or is not ready after 20 s.
    pub fn ready(victim: &Victim, base: &Path, arguments: &[&str]) -> Result<Self, VictimError> {
        let mut running = Self::start(victim, base, arguments)?;
        let pid = running.pid();
        let Running { place, child, .. } = &mut running;
        let look = || (place.is_ready() || place.verdict().is_some()).then_some(());
        place.await_file(pid, Some(child), "ready", Duration::from_secs(20), look)?;
        match place.verdict() {
            Some(verdict) => Err(VictimError::Early { name: place.name.clone(), verdict }),
            None => Ok(running),
        }
    }

    /// Its process, as this process's pid namespace numbers it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its folder.
    pub fn place(&self) -> &Workplace {
        &self.place
    }

    /// Lets it go on to its checks, and waits for the verdict.
    ///
    /// # Errors
    /// When it ends without one or takes longer than `limit`.
    pub fn finish(&mut self, limit: Duration) -> Result<Verdict, VictimError> {
        self.place.go()?;
        let pid = self.pid();
        let Running { place, child, .. } = self;
        place.await_file(pid, Some(child), "result", limit, || place.verdict())
    }

    /// Ends its processes and reaps the first: afterwards its pid is free, and [`Running::place`] is ready for a restore.
    pub fn kill(&mut self) {
        self.place.kill_all();
        // a restored one is not this process's child: nothing to reap then
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.owned = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
