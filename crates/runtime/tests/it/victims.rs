//! Every victim of the testkit, in a container: what must be carried is captured, stopped, restored
//! into a new container of the same pod, and judges itself; what is refused goes on as if nothing
//! had been.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cryopod_runtime::{
    CheckpointOptions, ContainerConfig, ContainerFilter, ContainerState, ErrorKind, Mount, Security,
};
use cryopod_testkit::{Fate, Victim, Workplace, gap, victims};

use crate::host::{Host, script};

/// How long what must happen is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A victim in a container of its own that has set its object up.
pub(crate) struct Placed {
    pub(crate) work: Work,
    pub(crate) config: ContainerConfig,
    pub(crate) id: String,
    pub(crate) archive: PathBuf,
}

/// Where a victim works.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Folder {
    /// In a folder of the machine that is mounted.
    Mounted,
    /// In the container's own root filesystem.
    Own,
}

/// The folder a victim works in, as seen from outside of its container.
pub(crate) enum Work {
    Mounted(Workplace),
    Own,
}

impl Work {
    /// A file's text.
    pub(crate) fn read(&self, host: &Host, id: &str, name: &str) -> Option<String> {
        match self {
            Self::Mounted(place) => fs::read_to_string(place.work().join(name)).ok(),
            Self::Own => {
                let upper = host.dir.path().join("state/containers").join(id).join("upper");
                fs::read_to_string(upper.join(OWN).join(name)).ok()
            }
        }
    }

    fn go(&self, host: &Host, id: &str) -> Result<(), String> {
        match self {
            Self::Mounted(place) => place.go().map_err(|e| e.to_string()),
            Self::Own => {
                let touch = ["touch".to_owned(), format!("/{OWN}/go")];
                let done = host.runtime.exec_sync(id, &touch, Some(PATIENCE));
                done.map(drop).map_err(|e| e.to_string())
            }
        }
    }
}

/// From the root.
const OWN: &str = "srv/work";

pub(crate) fn place(
    host: &Host,
    sandbox: &str,
    victim: &Victim,
    folder: Folder,
) -> Result<Placed, String> {
    let base = host.dir.path().join("victims").join(victim.name);
    let place = Workplace::new(victim, &base).map_err(|e| e.to_string())?;
    let mount = |host_path: PathBuf, container_path: &str| Mount {
        host_path,
        container_path: container_path.into(),
        ..Mount::default()
    };
    // It is the first process itself, but for the one that looks at the first process as another.
    let start = if victim.name == "creds_user" { "/victim & wait" } else { "exec /victim" };
    let mut config = ContainerConfig {
        mounts: vec![mount(place.executable(), "/victim")],
        security: Security { privileged: true, ..Security::default() },
        ..script(victim.name, &format!("mkdir -p /{OWN}; cd /{OWN}; {start}"))
    };
    if folder == Folder::Mounted {
        config.mounts.push(mount(place.work(), &format!("/{OWN}")));
    }
    let work = if folder == Folder::Mounted { Work::Mounted(place) } else { Work::Own };
    let id = host.runtime.create_container(sandbox, &config).map_err(|e| e.to_string())?;
    host.runtime.start_container(&id).map_err(|e| e.to_string())?;
    let begun = Instant::now();
    while work.read(host, &id, "ready").is_none() {
        let verdict = work.read(host, &id, "result");
        if verdict.is_some() || begun.elapsed() > PATIENCE {
            return Err(format!("not ready: {verdict:?}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(Placed { work, config, id, archive: base.join("checkpoint.tar") })
}

/// Lets a victim judge.
pub(crate) fn judged(host: &Host, work: &Work, id: &str) -> Result<(), String> {
    let ended = || {
        let status = host.runtime.container_status(id).map_err(|e| e.to_string())?;
        Ok::<_, String>((status.state == ContainerState::Exited).then_some(status.exit_code))
    };
    work.go(host, id)?;
    let begun = Instant::now();
    loop {
        let over = ended()?;
        match (work.read(host, id, "result").as_deref().map(str::trim_end), over) {
            (Some("ok"), _) => return Ok(()),
            (Some(other), _) => return Err(other.to_owned()),
            (None, Some(code)) => return Err(format!("it ended with {code} and without a word")),
            (None, None) if begun.elapsed() > PATIENCE => return Err("no verdict".into()),
            (None, None) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Captures and stops a victim, restores it in a new container, and lets it judge.
fn carry(host: &Host, sandbox: &str, victim: &Victim, folder: Folder) -> Result<(), String> {
    let Placed { work, config, id, archive } = place(host, sandbox, victim, folder)?;
    let options = CheckpointOptions { stop: true, ..CheckpointOptions::default() };
    let taken = host.runtime.checkpoint_container(&id, &archive, &options);
    taken.map_err(|e| format!("checkpoint: {e}"))?;
    host.runtime.remove_container(&id).map_err(|e| e.to_string())?;
    let made = host.runtime.create_container_from_archive(sandbox, &config, &archive);
    let id = made.map_err(|e| format!("create: {e}"))?;
    host.runtime.start_container(&id).map_err(|e| format!("restore: {e}"))?;
    judged(host, &work, &id)
}

/// A checkpoint of a victim is refused by name, and the victim never noticed.
fn refuse(host: &Host, sandbox: &str, victim: &Victim) -> Result<(), String> {
    let Fate::Refused(named) = victim.fate else { return Err("it is carried".into()) };
    let Placed { work, id, archive, .. } = place(host, sandbox, victim, Folder::Mounted)?;
    let taken = host.runtime.checkpoint_container(&id, &archive, &CheckpointOptions::default());
    match taken {
        Ok(_) => return Err("it was taken".into()),
        Err(e) if e.kind() == ErrorKind::Refused && e.to_string().contains(named) => {}
        Err(e) => return Err(format!("refused, but not by {named:?}: {e}")),
    }
    if archive.exists() {
        return Err("there is an archive".into());
    }
    judged(host, &work, &id)
}

/// Does something with each of some victims, several at a time, each in a container of its own.
fn for_each(
    host: &Host,
    pod: &str,
    all: &[&Victim],
    run: impl Fn(&Host, &str, &Victim) -> Result<(), String> + Sync,
) {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(String::new());
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let sandbox = host.run_pod(&format!("{pod}-{worker}"));
            let (next, failures, run) = (&next, &failures, &run);
            scope.spawn(move || {
                while let Some(victim) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = run(host, &sandbox, victim) {
                        let mut failures = failures.lock().unwrap();
                        let _ = writeln!(failures, "{}: {error}", victim.name);
                    }
                    let filter = ContainerFilter {
                        sandbox_id: Some(sandbox.clone()),
                        ..ContainerFilter::default()
                    };
                    for left in host.runtime.list_containers(&filter).unwrap() {
                        host.runtime.remove_container(&left.id).unwrap();
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "of {}:\n{failures}", all.len());
}

/// Those that cannot set their object up in a container of ours, with the reason.
const NOT_HERE: [(&str, &str); 2] = [
    ("sched", "a real-time policy needs a share of it in the cgroup (cpu.rt_runtime_us)"),
    ("sched_full", "as above"),
];

fn carried() -> Vec<&'static Victim> {
    let carried: Vec<&Victim> = victims()
        .iter()
        .filter(|v| v.fate == Fate::Carried && gap(v.name).is_none() && v.unmet().is_none())
        .filter(|v| NOT_HERE.iter().all(|(name, _)| *name != v.name))
        .collect();
    assert!(carried.len() > 50, "{} victims", carried.len());
    carried
}

#[test]
fn what_the_engine_carries_is_carried_in_a_container() {
    let host = Host::new();
    for_each(&host, "carried", &carried(), |host, sandbox, victim| {
        carry(host, sandbox, victim, Folder::Mounted)
    });
}

/// Those that compare inode numbers, which a root filesystem made again gives out anew.
const BY_INODE: [&str; 5] =
    ["files", "files_full", "files_static", "cwd_umask_root", "cwd_umask_root_full"];

#[test]
fn what_the_engine_carries_is_carried_with_its_files_in_the_containers_own_root() {
    let host = Host::new();
    let mut rooted = carried();
    rooted.retain(|victim| !BY_INODE.contains(&victim.name));
    for_each(&host, "rooted", &rooted, |host, sandbox, victim| {
        carry(host, sandbox, victim, Folder::Own)
    });
}

#[test]
fn what_the_engine_refuses_is_refused_by_name_and_goes_on() {
    let host = Host::new();
    let refused: Vec<&Victim> = victims()
        .iter()
        .filter(|v| matches!(v.fate, Fate::Refused(_)) && v.unmet().is_none())
        .collect();
    assert!(refused.len() > 15, "{} victims", refused.len());
    for_each(&host, "refused", &refused, refuse);
}
