//! Checkpoint and restore of whole containers.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use cryopod_runtime::{
    CancelToken, CheckpointOptions, ContainerConfig, ContainerState, ErrorKind, ImageSpec,
};

use crate::host::{Host, assert_state, script, wait_for};

/// Counts in its log, in a file of its root, and in `/dev/shm`.
pub(crate) const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i; echo $i >> /numbers; \
                       echo $i > /dev/shm/last; sleep 0.02; done";

fn numbers(text: &str) -> Vec<u64> {
    text.lines().map(|l| l.parse().unwrap()).collect()
}

pub(crate) fn logged(host: &Host, name: &str) -> Vec<u64> {
    host.log(name).iter().map(|(_, l)| l.parse().unwrap()).collect()
}

pub(crate) fn assert_in_order(numbers: &[u64]) {
    let wrong = numbers.iter().enumerate().find(|(i, n)| **n != *i as u64 + 1);
    assert!(wrong.is_none(), "{wrong:?} in {numbers:?}");
}

pub(crate) fn archive(host: &Host) -> PathBuf {
    let dir = host.dir.path().join("checkpoints");
    let _ = fs::create_dir(&dir);
    dir.join("checkpoint.tar")
}

#[test]
fn a_container_goes_on_after_a_checkpoint_and_again_from_it() {
    let host = Host::new();
    let sandbox = host.run_pod("counting");
    let config = script("counter", COUNTER);
    let id = host.run(&sandbox, &config);
    host.wait_log("counter", "10");
    let archive = archive(&host);
    let report =
        host.runtime.checkpoint_container(&id, &archive, &CheckpointOptions::default()).unwrap();
    assert!(report.pages > 0 && report.tasks >= 1 && !report.stopped, "{report:?}");
    let at = logged(&host, "counter").len();
    wait_for("ticks after the checkpoint", || logged(&host, "counter").len() > at + 10);
    assert_in_order(&logged(&host, "counter"));
    host.runtime.remove_pod_sandbox(&sandbox).unwrap();
    let last = logged(&host, "counter").len();

    let described = host.runtime.describe_archive(&archive).unwrap();
    assert_eq!(
        (described.pod.name.as_str(), described.container.as_str()),
        ("counting", "counter")
    );
    let sandbox = host.runtime.run_pod_sandbox(&described.sandbox.unwrap()).unwrap();
    let id = host
        .runtime
        .create_container_from_archive(&sandbox, &described.config.unwrap(), &archive)
        .unwrap();
    assert_state(&host.runtime.container_status(&id).unwrap(), ContainerState::Created);
    let at_archive = logged(&host, "counter").len();
    assert!(at_archive < last, "{at_archive} {last}");
    host.runtime.start_container(&id).unwrap();
    let status = host.runtime.container_status(&id).unwrap();
    assert_state(&status, ContainerState::Running);
    assert_eq!(status.restored_from, Some(archive));
    assert!(status.checkpointed_at.unwrap() > 0);
    wait_for("ticks after the restore", || logged(&host, "counter").len() > at_archive + 10);
    let show = |path: &str| {
        let cat = ["cat".to_owned(), path.to_owned()];
        let output = host.runtime.exec_sync(&id, &cat, Some(Duration::from_secs(20))).unwrap();
        numbers(&String::from_utf8(output.stdout).unwrap())
    };
    assert!(show("/dev/shm/last")[0] > at_archive as u64);
    assert_in_order(&show("/numbers"));
    host.runtime.stop_container(&id, Duration::ZERO).unwrap();
    assert_in_order(&logged(&host, "counter"));
}

#[test]
fn a_container_can_be_captured_and_stopped_in_one_freeze() {
    let host = Host::new();
    let sandbox = host.run_pod("moving");
    let id = host.run(&sandbox, &script("counter", COUNTER));
    host.wait_log("counter", "5");
    let archive = archive(&host);
    let options = CheckpointOptions { stop: true, ..CheckpointOptions::default() };
    let report = host.runtime.checkpoint_container(&id, &archive, &options).unwrap();
    assert!(report.stopped);
    let status = host.runtime.container_status(&id).unwrap();
    assert_state(&status, ContainerState::Exited);
    assert_eq!(status.reason, "Checkpointed");
    let before = logged(&host, "counter");
    host.runtime.remove_container(&id).unwrap();
    let id = host
        .runtime
        .create_container_from_archive(&sandbox, &script("counter", ""), &archive)
        .unwrap();
    assert_eq!(logged(&host, "counter"), before, "nothing ran on after the freeze");
    host.runtime.start_container(&id).unwrap();
    wait_for("ticks after the restore", || logged(&host, "counter").len() > before.len() + 5);
    assert_in_order(&logged(&host, "counter"));
}

#[test]
fn a_checkpoint_that_is_cancelled_or_refused_leaves_no_file_and_the_container_running() {
    let host = Host::new();
    let sandbox = host.run_pod("refusing");
    let id = host.run(&sandbox, &script("counter", COUNTER));
    host.wait_log("counter", "3");
    let archive = archive(&host);
    let cancel = CancelToken::new();
    cancel.cancel();
    let options = CheckpointOptions { cancel, ..CheckpointOptions::default() };
    match host.runtime.checkpoint_container(&id, &archive, &options) {
        Ok(_) => fs::remove_file(&archive).unwrap(),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}"),
    }
    let options =
        CheckpointOptions { timeout: Some(Duration::ZERO), ..CheckpointOptions::default() };
    let error = host.runtime.checkpoint_container(&id, &archive, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
    let options = CheckpointOptions { with_image: true, ..CheckpointOptions::default() };
    let error = host.runtime.checkpoint_container(&id, &archive, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert_eq!(fs::read_dir(archive.parent().unwrap()).unwrap().count(), 0);
    let at = logged(&host, "counter").len();
    wait_for("ticks after the failures", || logged(&host, "counter").len() > at + 5);
    assert_in_order(&logged(&host, "counter"));
}

#[test]
fn an_archive_with_its_image_is_all_that_another_machine_needs() {
    let host = Host::new();
    let root = host.dir.path().join("root");
    for dir in ["bin", "lib", "lib64", "usr", "etc"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::write(root.join("greeting"), "from the image").unwrap();
    let bind = |path: &str| cryopod_runtime::Mount {
        host_path: path.into(),
        container_path: path.into(),
        readonly: true,
        recursive: true,
        ..cryopod_runtime::Mount::default()
    };
    let config = ContainerConfig {
        image: ImageSpec::Folder(root.clone()),
        mounts: ["/bin", "/lib", "/lib64", "/usr"].map(bind).into(),
        ..script("counter", COUNTER)
    };
    let sandbox = host.run_pod("leaving");
    let id = host.run(&sandbox, &config);
    host.wait_log("counter", "5");
    let dir = archive(&host).parent().unwrap().to_owned();
    let (with, without) = (dir.join("with.tar"), dir.join("without.tar"));
    let options = CheckpointOptions { with_image: true, ..CheckpointOptions::default() };
    host.runtime.checkpoint_container(&id, &with, &options).unwrap();
    host.runtime.checkpoint_container(&id, &without, &CheckpointOptions::default()).unwrap();
    let image = host.runtime.container_status(&id).unwrap().image_id;
    host.runtime.remove_pod_sandbox(&sandbox).unwrap();
    fs::remove_dir_all(&root).unwrap();

    let elsewhere = Host::new();
    let sandbox = elsewhere.run_pod("arriving");
    let config = ContainerConfig { image: ImageSpec::Host, ..config };
    let error =
        elsewhere.runtime.create_container_from_archive(&sandbox, &config, &without).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains(&image), "{error}");
    let id = elsewhere.runtime.create_container_from_archive(&sandbox, &config, &with).unwrap();
    elsewhere.runtime.start_container(&id).unwrap();
    let at = logged(&elsewhere, "counter").len();
    wait_for("ticks elsewhere", || logged(&elsewhere, "counter").len() > at + 5);
    assert_in_order(&logged(&elsewhere, "counter"));
    let cat = ["cat".to_owned(), "/greeting".to_owned()];
    let output = elsewhere.runtime.exec_sync(&id, &cat, None).unwrap();
    assert_eq!(output.stdout, b"from the image");
}

#[test]
fn an_archive_that_does_not_fit_is_refused_before_anything_is_made() {
    let host = Host::new();
    let sandbox = host.run_pod("fitting");
    let volume = host.dir.path().join("volume");
    fs::create_dir(&volume).unwrap();
    let mut config = script("counter", COUNTER);
    config.mounts.push(cryopod_runtime::Mount {
        host_path: volume,
        container_path: "/tmp/volume".into(),
        ..cryopod_runtime::Mount::default()
    });
    config.security.add_capabilities.push("NET_ADMIN".into());
    let id = host.run(&sandbox, &config);
    host.wait_log("counter", "3");
    let archive = archive(&host);
    host.runtime.checkpoint_container(&id, &archive, &CheckpointOptions::default()).unwrap();
    host.runtime.remove_container(&id).unwrap();
    let refuse = |sandbox: &str, config: &ContainerConfig, what: &str| {
        let result = host.runtime.create_container_from_archive(sandbox, config, &archive);
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.to_string().contains(what), "{error}");
    };
    let without_volume = ContainerConfig { mounts: Vec::new(), ..config.clone() };
    refuse(&sandbox, &without_volume, "/tmp/volume");
    let mut without_capability = config.clone();
    without_capability.security.add_capabilities.clear();
    refuse(&sandbox, &without_capability, "CAP_NET_ADMIN");
    let mut other = host.pod("other");
    other.identity.namespace = "elsewhere".into();
    let other = host.runtime.run_pod_sandbox(&other).unwrap();
    refuse(&other, &config, "namespace");
    let mut bytes = fs::read(&archive).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&archive, bytes).unwrap();
    let result = host.runtime.create_container_from_archive(&sandbox, &config, &archive);
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(fs::read_dir(host.dir.path().join("state/containers")).unwrap().count(), 0);
}

#[test]
fn a_folder_image_that_has_changed_is_refused_by_its_digests() {
    let host = Host::new();
    let root = host.dir.path().join("root");
    for dir in ["bin", "lib", "lib64", "usr", "etc"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::write(root.join("greeting"), "as it was").unwrap();
    let bind = |path: &str| cryopod_runtime::Mount {
        host_path: path.into(),
        container_path: path.into(),
        readonly: true,
        recursive: true,
        ..cryopod_runtime::Mount::default()
    };
    let config = ContainerConfig {
        image: ImageSpec::Folder(root.clone()),
        mounts: ["/bin", "/lib", "/lib64", "/usr"].map(bind).into(),
        ..script("counter", COUNTER)
    };
    let sandbox = host.run_pod("folder");
    let id = host.run(&sandbox, &config);
    host.wait_log("counter", "3");
    let archive = archive(&host);
    let options = CheckpointOptions { stop: true, ..CheckpointOptions::default() };
    host.runtime.checkpoint_container(&id, &archive, &options).unwrap();
    let image = host.runtime.container_status(&id).unwrap().image_id;
    host.runtime.remove_container(&id).unwrap();
    let restore = || host.runtime.create_container_from_archive(&sandbox, &config, &archive);
    fs::write(root.join("greeting"), "as it is!").unwrap();
    let error = restore().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    let text = error.to_string();
    assert!(text.contains(&image) && text.matches("sha256:").count() == 2, "{text}");
    fs::write(root.join("greeting"), "as it was").unwrap();
    host.runtime.start_container(&restore().unwrap()).unwrap();
}
