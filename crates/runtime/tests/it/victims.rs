//! Every victim of the testkit, in a container: what must be carried is captured, stopped, restored
//! into a new container of the same pod, and judges itself; what is refused goes on as if nothing
//! had been.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cryopod_runtime::{
    CheckpointOptions, ContainerConfig, ContainerFilter, ContainerState, ErrorKind, Mount, Security,
};
use cryopod_testkit::{Fate, Verdict, Victim, Workplace, gap, victims};

use crate::host::{Host, script};

/// How long what must happen is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A victim in a container of its own that has set its object up.
struct Placed {
    place: Workplace,
    config: ContainerConfig,
    id: String,
    archive: PathBuf,
}

fn place(host: &Host, sandbox: &str, victim: &Victim) -> Result<Placed, String> {
    let base = host.dir.path().join("victims").join(victim.name);
    let place = Workplace::new(victim, &base).map_err(|e| e.to_string())?;
    let mount = |host_path: PathBuf, container_path: &str| Mount {
        host_path,
        container_path: container_path.into(),
        ..Mount::default()
    };
    // It is the first process itself, but for the one that looks at the first process as another.
    let command: &[&str] = match victim.name {
        "creds_user" => &["/bin/sh", "-c", "/victim & wait"],
        _ => &["/victim"],
    };
    let config = ContainerConfig {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        working_dir: "/work".into(),
        mounts: vec![mount(place.work(), "/work"), mount(place.executable(), "/victim")],
        security: Security { privileged: true, ..Security::default() },
        ..script(victim.name, "")
    };
    let id = host.runtime.create_container(sandbox, &config).map_err(|e| e.to_string())?;
    host.runtime.start_container(&id).map_err(|e| e.to_string())?;
    let begun = Instant::now();
    while !place.is_ready() {
        if place.verdict().is_some() || begun.elapsed() > PATIENCE {
            return Err(format!("not ready: {:?}", place.verdict()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(Placed { place, config, id, archive: base.join("checkpoint.tar") })
}

/// Lets a victim judge.
fn judged(host: &Host, place: &Workplace, id: &str) -> Result<(), String> {
    place.go().map_err(|e| e.to_string())?;
    let begun = Instant::now();
    loop {
        match place.verdict() {
            Some(Verdict::Ok) => return Ok(()),
            Some(other) => return Err(format!("{other:?}")),
            None => {}
        }
        let status = host.runtime.container_status(id).map_err(|e| e.to_string())?;
        let ended = status.state == ContainerState::Exited && place.verdict().is_none();
        if ended || begun.elapsed() > PATIENCE {
            return Err(format!("no verdict: {status:?}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Captures and stops a victim, restores it in a new container, and lets it judge.
fn carry(host: &Host, sandbox: &str, victim: &Victim) -> Result<(), String> {
    let Placed { place, config, id, archive } = place(host, sandbox, victim)?;
    let options = CheckpointOptions { stop: true, ..CheckpointOptions::default() };
    let taken = host.runtime.checkpoint_container(&id, &archive, &options);
    taken.map_err(|e| format!("checkpoint: {e}"))?;
    host.runtime.remove_container(&id).map_err(|e| e.to_string())?;
    let made = host.runtime.create_container_from_archive(sandbox, &config, &archive);
    let id = made.map_err(|e| format!("create: {e}"))?;
    host.runtime.start_container(&id).map_err(|e| format!("restore: {e}"))?;
    judged(host, &place, &id)
}

/// A checkpoint of a victim is refused by name, and the victim never noticed.
fn refuse(host: &Host, sandbox: &str, victim: &Victim) -> Result<(), String> {
    let Fate::Refused(named) = victim.fate else { return Err("it is carried".into()) };
    let Placed { place, id, archive, .. } = place(host, sandbox, victim)?;
    let taken = host.runtime.checkpoint_container(&id, &archive, &CheckpointOptions::default());
    match taken {
        Ok(_) => return Err("it was taken".into()),
        Err(e) if e.kind() == ErrorKind::Refused && e.to_string().contains(named) => {}
        Err(e) => return Err(format!("refused, but not by {named:?}: {e}")),
    }
    if archive.exists() {
        return Err("there is an archive".into());
    }
    judged(host, &place, &id)
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

#[test]
fn what_the_engine_carries_is_carried_in_a_container() {
    let host = Host::new();
    let carried: Vec<&Victim> = victims()
        .iter()
        .filter(|v| v.fate == Fate::Carried && gap(v.name).is_none() && v.unmet().is_none())
        .filter(|v| NOT_HERE.iter().all(|(name, _)| *name != v.name))
        .collect();
    assert!(carried.len() > 50, "{} victims", carried.len());
    for_each(&host, "carried", &carried, carry);
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
