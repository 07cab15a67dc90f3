//! What is left when a process is killed.

use std::time::Duration;

use cryopod_runtime::{ContainerState, PodSandboxState};

use crate::host::{Host, assert_state, script, wait_for};

#[test]
fn another_runtime_on_the_same_folders_finds_everything_running() {
    let host = Host::new();
    let sandbox = host.run_pod("survivor");
    let id = host.run(&sandbox, &script("app", "trap 'exit 4' TERM; echo up; sleep 1000 & wait"));
    host.wait_log("app", "up");
    let other = host.reopen();
    assert_state(&other.container_status(&id).unwrap(), ContainerState::Running);
    assert_eq!(other.pod_sandbox_status(&sandbox).unwrap().state, PodSandboxState::Ready);
    other.stop_container(&id, Duration::from_secs(20)).unwrap();
    assert_eq!(host.runtime.container_status(&id).unwrap().exit_code, 4);
}

#[test]
fn a_killed_shim_leaves_containers_that_are_listed_as_lost_and_no_process() {
    let host = Host::new();
    let sandbox = host.run_pod("lost");
    let id = host.run(&sandbox, &script("app", "echo up; exec sleep 1000"));
    let waiting = host.runtime.create_container(&sandbox, &script("waiting", "true")).unwrap();
    host.wait_log("app", "up");
    let status = host.runtime.pod_sandbox_status(&sandbox).unwrap();
    let pid = host.runtime.container_status(&id).unwrap().pid.unwrap();
    let shim = rustix::process::Pid::from_raw(status.shim_pid.unwrap()).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    wait_for("loss of the shim", || {
        host.runtime.pod_sandbox_status(&sandbox).unwrap().state == PodSandboxState::NotReady
    });
    let other = host.reopen();
    let status = other.container_status(&id).unwrap();
    assert_state(&status, ContainerState::Exited);
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "ShimLost"));
    assert_state(&other.container_status(&waiting).unwrap(), ContainerState::Exited);
    wait_for("end of the container's process", || {
        !std::path::Path::new(&format!("/proc/{pid}")).exists()
    });
    assert!(other.create_container(&sandbox, &script("late", "true")).is_err());
    other.remove_container(&id).unwrap();
}
