//! Checkpoints while other things go on, and processes that are killed in the middle of one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cryopod_runtime::{
    CancelToken, CheckpointOptions, ContainerConfig, ContainerState, ErrorKind, ImageSource,
    ImageSpec, NamespaceMode, SandboxConfig,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::checkpoint::{COUNTER, archive, assert_in_order, logged};
use crate::host::{Host, assert_state, script, wait_for};

/// Helpers of a shim that run now. A first process that waits is a copy of one: it is `not` one.
pub(crate) fn helpers(shim: i32, not: Option<i32>) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent =
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if parent == Some(shim) && Some(pid) != not && command.ends_with(b"__cryopod\0helper\0") {
            found.extend(Pid::from_raw(pid));
        }
    }
    found
}

pub(crate) fn shim_of(host: &Host, sandbox: &str) -> i32 {
    host.runtime.pod_sandbox_status(sandbox).unwrap().shim_pid.unwrap()
}

fn assert_untraced(host: &Host, id: &str) {
    let pid = host.runtime.container_status(id).unwrap().pid.unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("TracerPid:\t0"), "{status}");
}

pub(crate) fn files_in(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().flatten().map(|e| e.path()).collect()
}

#[test]
fn commands_go_on_through_twenty_checkpoints() {
    let host = Host::new();
    let sandbox = host.run_pod("probed");
    let id = host.run(&sandbox, &script("counter", COUNTER));
    host.wait_log("counter", "3");
    let done = AtomicBool::new(false);
    let echo = ["/bin/sh", "-c", "echo alive"].map(str::to_owned);
    std::thread::scope(|scope| {
        let probe = scope.spawn(|| {
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                let output = host.runtime.exec_sync(&id, &echo, Some(Duration::from_secs(30)));
                let output = output.unwrap();
                assert_eq!((output.stdout.as_slice(), output.exit_code), (&b"alive\n"[..], 0));
                count += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            count
        });
        let archive = archive(&host);
        for round in 0..20 {
            let report =
                host.runtime.checkpoint_container(&id, &archive, &CheckpointOptions::default());
            if report.is_err() {
                done.store(true, Ordering::Relaxed);
            }
            let report = report.unwrap();
            assert!(report.tasks >= 1, "round {round}: {report:?}");
            fs::remove_file(&archive).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(probe.join().unwrap() >= 5);
    });
    let at = logged(&host, "counter").len();
    wait_for("ticks at the end", || logged(&host, "counter").len() > at + 3);
    assert_in_order(&logged(&host, "counter"));
}

#[test]
fn a_dump_helper_killed_at_any_moment_leaves_the_container_unharmed_and_no_file() {
    let host = Host::new();
    let sandbox = host.run_pod("stabbed");
    let shim = shim_of(&host, &sandbox);
    let id = host.run(&sandbox, &script("counter", COUNTER));
    host.wait_log("counter", "3");
    let archive = archive(&host);
    let mut killed = 0;
    for round in 0..30u32 {
        let options = CheckpointOptions { stop: round % 2 == 0, ..CheckpointOptions::default() };
        let result = std::thread::scope(|scope| {
            let checkpoint =
                scope.spawn(|| host.runtime.checkpoint_container(&id, &archive, &options));
            let deadline = Instant::now() + Duration::from_secs(5);
            while Instant::now() < deadline && !checkpoint.is_finished() {
                let Some(helper) = helpers(shim, None).into_iter().next() else { continue };
                std::thread::sleep(Duration::from_micros(u64::from(round) * 700));
                let _ = kill_process(helper, Signal::KILL);
                break;
            }
            checkpoint.join().unwrap()
        });
        match result {
            // It was too late: the archive is whole.
            Ok(report) => {
                fs::remove_file(&archive).unwrap();
                if report.stopped {
                    return assert!(killed > 0);
                }
            }
            Err(error) => {
                killed += 1;
                assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
            }
        }
        assert_eq!(files_in(archive.parent().unwrap()), Vec::<PathBuf>::new());
        assert_state(&host.runtime.container_status(&id).unwrap(), ContainerState::Running);
        assert_untraced(&host, &id);
        let at = logged(&host, "counter").len();
        wait_for("ticks after the kill", || logged(&host, "counter").len() > at + 1);
    }
    assert!(killed > 0);
    assert_in_order(&logged(&host, "counter"));
    host.runtime.checkpoint_container(&id, &archive, &CheckpointOptions::default()).unwrap();
}

/// Restores a stopped counter again and again; each time something is killed a little later. Nothing
/// of a failed attempt is left, and in the end the restore succeeds.
fn kill_in_restores(pod: &str, rounds: u32, victim: impl Fn(i32, Pid) -> Option<Pid> + Sync) {
    let host = Host::new();
    let sandbox = host.run_pod(pod);
    let shim = shim_of(&host, &sandbox);
    let config = script("counter", COUNTER);
    let id = host.run(&sandbox, &config);
    host.wait_log("counter", "3");
    let archive = archive(&host);
    let stop = CheckpointOptions { stop: true, ..CheckpointOptions::default() };
    host.runtime.checkpoint_container(&id, &archive, &stop).unwrap();
    host.runtime.remove_container(&id).unwrap();
    let mut killed = 0;
    for round in 0..rounds {
        let id = host.runtime.create_container_from_archive(&sandbox, &config, &archive).unwrap();
        let pid = host.runtime.container_status(&id).unwrap().pid.unwrap();
        let result = std::thread::scope(|scope| {
            let start = scope.spawn(|| host.runtime.start_container(&id));
            while !start.is_finished() {
                let Some(helper) = helpers(shim, Some(pid)).into_iter().next() else { continue };
                std::thread::sleep(Duration::from_micros(u64::from(round) * 900));
                if let Some(victim) = victim(pid, helper) {
                    let _ = kill_process(victim, Signal::KILL);
                }
                break;
            }
            start.join().unwrap()
        });
        let status = host.runtime.container_status(&id).unwrap();
        if result.is_err() {
            killed += 1;
            assert_state(&status, ContainerState::Exited);
            assert_eq!(status.reason, "StartError");
            assert!(!Path::new(&format!("/proc/{pid}")).exists());
            assert!(status.cgroup_paths.is_empty());
        }
        host.runtime.remove_container(&id).unwrap();
        assert_eq!(helpers(shim, None), Vec::new());
    }
    assert!(killed > 0);
    let id = host.runtime.create_container_from_archive(&sandbox, &config, &archive).unwrap();
    host.runtime.start_container(&id).unwrap();
    let at = logged(&host, "counter").len();
    wait_for("ticks after the restore", || logged(&host, "counter").len() > at + 3);
    assert_in_order(&logged(&host, "counter"));
}

#[test]
fn a_restore_helper_killed_at_any_moment_leaves_no_process_of_the_container() {
    kill_in_restores("stillborn", 15, |_, helper| Some(helper));
}

#[test]
fn a_first_process_killed_at_any_moment_of_its_restore_leaves_no_other() {
    kill_in_restores("headless", 15, |first, _| Pid::from_raw(first));
}

#[test]
fn a_container_stopped_at_any_moment_of_its_checkpoint_ends_and_leaves_no_part_of_an_archive() {
    let host = Host::new();
    let sandbox = host.run_pod("ended");
    let archive = archive(&host);
    let folder = archive.parent().unwrap();
    let mut failed = 0;
    for round in 0..15u64 {
        // Several processes: their first one cannot end before the others.
        let id = host.run(&sandbox, &script("counter", &format!("sleep 60 & {COUNTER}")));
        host.wait_log("counter", "3");
        let options = CheckpointOptions::default();
        let result = std::thread::scope(|scope| {
            let checkpoint =
                scope.spawn(|| host.runtime.checkpoint_container(&id, &archive, &options));
            std::thread::sleep(Duration::from_millis(round * 3));
            host.runtime.stop_container(&id, Duration::ZERO).unwrap();
            checkpoint.join().unwrap()
        });
        assert_state(&host.runtime.container_status(&id).unwrap(), ContainerState::Exited);
        match result {
            Ok(_) => fs::remove_file(&archive).unwrap(),
            Err(_) => failed += 1,
        }
        assert_eq!(files_in(folder), Vec::<PathBuf>::new());
        host.runtime.remove_container(&id).unwrap();
        fs::remove_file(host.logs().join("counter.log")).unwrap();
    }
    assert!(failed > 0);
}

#[test]
fn a_checkpoint_is_given_up_at_any_moment() {
    let host = Host::new();
    let sandbox = host.run_pod("fickle");
    let id = host.run(&sandbox, &script("counter", COUNTER));
    host.wait_log("counter", "3");
    let archive = archive(&host);
    for round in 0..15u64 {
        let cancel = CancelToken::new();
        let options = CheckpointOptions { cancel: cancel.clone(), ..CheckpointOptions::default() };
        let result = std::thread::scope(|scope| {
            let checkpoint =
                scope.spawn(|| host.runtime.checkpoint_container(&id, &archive, &options));
            std::thread::sleep(Duration::from_millis(round * 4));
            cancel.cancel();
            checkpoint.join().unwrap()
        });
        match result {
            Ok(_) => fs::remove_file(&archive).unwrap(),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}"),
        }
        assert_eq!(files_in(archive.parent().unwrap()), Vec::<PathBuf>::new());
        assert_untraced(&host, &id);
    }
    let at = logged(&host, "counter").len();
    wait_for("ticks at the end", || logged(&host, "counter").len() > at + 3);
    assert_in_order(&logged(&host, "counter"));
}

#[test]
fn clocks_go_on_from_the_checkpoint() {
    let host = Host::new();
    let sandbox = host.run_pod("clock");
    let config = script("counter", COUNTER);
    let id = host.run(&sandbox, &config);
    host.wait_log("counter", "3");
    let archive = archive(&host);
    let stop = CheckpointOptions { stop: true, ..CheckpointOptions::default() };
    let uptime = |text: &str| text.split(' ').next().unwrap().parse::<f64>().unwrap();
    let of_host = || uptime(&fs::read_to_string("/proc/uptime").unwrap());
    let before = of_host();
    host.runtime.checkpoint_container(&id, &archive, &stop).unwrap();
    let after = of_host();
    host.runtime.remove_container(&id).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let id = host.runtime.create_container_from_archive(&sandbox, &config, &archive).unwrap();
    let made = of_host();
    host.runtime.start_container(&id).unwrap();
    let cat = ["cat", "/proc/uptime"].map(str::to_owned);
    let output = host.runtime.exec_sync(&id, &cat, None).unwrap();
    let inside = uptime(&String::from_utf8(output.stdout).unwrap());
    let running = of_host();
    assert!(inside >= before && inside <= after + (running - made) + 1.0, "{inside}");
    assert!(running - inside >= 1.5, "{running} {inside}");
}

#[test]
fn a_container_in_the_pods_process_ids_comes_back_with_its_own() {
    let host = Host::new();
    let pod = SandboxConfig { pid: NamespaceMode::Pod, ..host.pod("shared") };
    let sandbox = host.runtime.run_pod_sandbox(&pod).unwrap();
    let config = script("counter", &format!("echo $$ > /pid; {COUNTER}"));
    let id = host.run(&sandbox, &config);
    host.wait_log("counter", "3");
    let archive = archive(&host);
    let stop = CheckpointOptions { stop: true, ..CheckpointOptions::default() };
    host.runtime.checkpoint_container(&id, &archive, &stop).unwrap();
    host.runtime.remove_container(&id).unwrap();
    let id = host.runtime.create_container_from_archive(&sandbox, &config, &archive).unwrap();
    host.runtime.start_container(&id).unwrap();
    let at = logged(&host, "counter").len();
    wait_for("ticks after the restore", || logged(&host, "counter").len() > at + 3);
    let check = "[ -d /proc/$(cat /pid) ] && tr '\\0' ' ' < /proc/$(cat /pid)/cmdline";
    let command = ["/bin/sh", "-c", check].map(str::to_owned);
    let output = host.runtime.exec_sync(&id, &command, None).unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("echo $i"), "{output:?}");
    let alone = host.run_pod("alone");
    let error = host.runtime.create_container_from_archive(&alone, &config, &archive).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
}

/// A docker archive of one layer with a file and the folders that programs are bound to.
fn docker_archive(path: &Path) {
    let mut layer = tar::Builder::new(Vec::new());
    for name in ["bin", "etc", "lib", "lib64", "usr"] {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        layer.append_data(&mut header, name, &[][..]).unwrap();
    }
    add(&mut layer, "greeting", b"from the layer");
    let layer = layer.into_inner().unwrap();
    let digest: String = {
        use sha2::Digest;
        sha2::Sha256::digest(&layer).iter().map(|b| format!("{b:02x}")).collect()
    };
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["WORD=image"]}},
            "rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}},"history":[]}}"#
    );
    let manifest = r#"[{"Config":"c.json","RepoTags":["greeter:1"],"Layers":["l.tar"]}]"#;
    let mut out = tar::Builder::new(fs::File::create(path).unwrap());
    add(&mut out, "manifest.json", manifest.as_bytes());
    add(&mut out, "c.json", config.as_bytes());
    add(&mut out, "l.tar", &layer);
    out.finish().unwrap();
}

fn add<W: std::io::Write>(builder: &mut tar::Builder<W>, name: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(bytes.len() as u64);
    builder.append_data(&mut header, name, bytes).unwrap();
}

#[test]
fn an_image_of_layers_travels_in_the_archive() {
    let host = Host::new();
    let path = host.dir.path().join("image.tar");
    docker_archive(&path);
    let image = host.runtime.import_image(&ImageSource::Tar(path), None).unwrap();
    let bind = |path: &str| cryopod_runtime::Mount {
        host_path: path.into(),
        container_path: path.into(),
        readonly: true,
        recursive: true,
        ..cryopod_runtime::Mount::default()
    };
    let config = ContainerConfig {
        image: ImageSpec::Stored("greeter:1".into()),
        mounts: ["/bin", "/lib", "/lib64", "/usr"].map(bind).into(),
        ..script("counter", &format!("[ $WORD = image ] || exit 1; rm /greeting; {COUNTER}"))
    };
    let sandbox = host.run_pod("layers");
    let id = host.run(&sandbox, &config);
    host.wait_log("counter", "3");
    let archive = archive(&host);
    let options = CheckpointOptions { with_image: true, ..CheckpointOptions::default() };
    host.runtime.checkpoint_container(&id, &archive, &options).unwrap();
    host.runtime.remove_pod_sandbox(&sandbox).unwrap();

    let elsewhere = Host::new();
    let sandbox = elsewhere.run_pod("layers");
    let id = elsewhere.runtime.create_container_from_archive(&sandbox, &config, &archive).unwrap();
    elsewhere.runtime.start_container(&id).unwrap();
    let at = logged(&elsewhere, "counter").len();
    wait_for("ticks elsewhere", || logged(&elsewhere, "counter").len() > at + 3);
    assert_in_order(&logged(&elsewhere, "counter"));
    let ls = ["ls", "/greeting"].map(str::to_owned);
    assert_ne!(elsewhere.runtime.exec_sync(&id, &ls, None).unwrap().exit_code, 0);
    let found = elsewhere.runtime.image_status("greeter:1").unwrap().unwrap();
    assert_eq!(found.id, image.id);
    assert_eq!(elsewhere.runtime.container_status(&id).unwrap().image_id, image.id);
}
