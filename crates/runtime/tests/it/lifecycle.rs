//! From creation to removal.

use std::fs;
use std::time::Duration;

use cryopod_runtime::{
    ContainerConfig, ContainerFilter, ContainerState, ErrorKind, ImageSource, ImageSpec, Mount,
    PodFilter, PodSandboxState, Resources, Rlimit,
};

use crate::host::{Host, assert_state, script, wait_for, words};

#[test]
fn a_container_is_created_started_and_ends_with_its_exit_code_and_log() {
    let host = Host::new();
    let sandbox = host.run_pod("web");
    let config = script("app", "echo to stdout; echo to stderr >&2; printf unended; exit 7");
    let id = host.runtime.create_container(&sandbox, &config).unwrap();
    let status = host.runtime.container_status(&id).unwrap();
    assert_state(&status, ContainerState::Created);
    assert!(status.pid.is_some());
    host.runtime.start_container(&id).unwrap();
    let status = host.runtime.wait_container(&id, Some(Duration::from_secs(30))).unwrap();
    assert_state(&status, ContainerState::Exited);
    assert_eq!((status.exit_code, status.reason.as_str(), status.pid), (7, "Error", None));
    assert!(status.created_at < status.started_at && status.started_at <= status.finished_at);
    let log = host.log("app");
    let of = |stream: &str| {
        log.iter().filter(|(s, _)| s == stream).map(|(_, l)| l.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(of("stdout"), ["to stdout", "unended"]);
    assert_eq!(of("stderr"), ["to stderr"]);
    host.runtime.remove_container(&id).unwrap();
    assert_eq!(host.runtime.container_status(&id).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn containers_of_a_pod_share_network_ipc_host_name_and_shm_but_not_processes_and_mounts() {
    let host = Host::new();
    let sandbox = host.run_pod("shared");
    let show = "for n in net ipc uts pid mnt cgroup; do readlink /proc/self/ns/$n; done; hostname; \
                echo pid $$; cat /dev/shm/word 2>/dev/null; echo hello > /dev/shm/word; \
                ls /sys/class/net; echo done; exec sleep 1000";
    host.run(&sandbox, &script("a", show));
    host.wait_log("a", "done");
    host.run(&sandbox, &script("b", show));
    host.wait_log("b", "done");
    let lines = |name: &str| host.log(name).into_iter().map(|(_, l)| l).collect::<Vec<_>>();
    let (a, b) = (lines("a"), lines("b"));
    assert_eq!(a[..3], b[..3], "net, ipc, uts");
    for (index, name) in ["net", "ipc", "uts", "pid", "mnt", "cgroup"].iter().enumerate() {
        let ours = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(a[index], ours.to_string_lossy(), "{name}");
    }
    for index in 3..6 {
        assert_ne!(a[index], b[index]);
    }
    assert_eq!(a[6], "shared");
    assert_eq!(a[7], "pid 1");
    assert_eq!(a[8..], ["lo", "done"]);
    assert_eq!(b[8..], ["hello", "lo", "done"]);
}

#[test]
fn stop_asks_first_and_kills_after_the_grace() {
    let host = Host::new();
    let sandbox = host.run_pod("stops");
    let polite = host.run(
        &sandbox,
        &script("polite", "trap 'echo bye; exit 3' TERM; echo up; sleep 1000 & wait"),
    );
    host.wait_log("polite", "up");
    host.runtime.stop_container(&polite, Duration::from_secs(20)).unwrap();
    assert_eq!(host.runtime.container_status(&polite).unwrap().exit_code, 3);
    assert_eq!(host.log("polite").last().unwrap().1, "bye");
    let deaf =
        host.run(&sandbox, &script("deaf", "trap '' TERM; echo up; while :; do sleep 1; done"));
    host.wait_log("deaf", "up");
    host.runtime.stop_container(&deaf, Duration::from_millis(300)).unwrap();
    assert_eq!(host.runtime.container_status(&deaf).unwrap().exit_code, 137);
    host.runtime.stop_container(&deaf, Duration::ZERO).unwrap();
    let usr1 = ContainerConfig {
        stop_signal: "SIGUSR1".into(),
        ..script("usr1", "trap 'exit 9' USR1; echo up; sleep 1000 & wait")
    };
    let usr1 = host.run(&sandbox, &usr1);
    host.wait_log("usr1", "up");
    host.runtime.stop_container(&usr1, Duration::from_secs(20)).unwrap();
    assert_eq!(host.runtime.container_status(&usr1).unwrap().exit_code, 9);
}

#[test]
fn a_program_that_is_not_there_is_told_at_the_start() {
    let host = Host::new();
    let sandbox = host.run_pod("absent");
    let config = ContainerConfig {
        command: vec!["no-such-program".into()],
        ..ContainerConfig::named("app", ImageSpec::Host)
    };
    let id = host.runtime.create_container(&sandbox, &config).unwrap();
    let error = host.runtime.start_container(&id).unwrap_err();
    assert!(error.to_string().contains("no-such-program"), "{error}");
    let status = host.runtime.container_status(&id).unwrap();
    assert_state(&status, ContainerState::Exited);
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
}

#[test]
fn a_container_that_cannot_be_made_leaves_nothing() {
    let host = Host::new();
    let sandbox = host.run_pod("broken");
    let mut config = script("app", "true");
    config.mounts.push(Mount {
        host_path: host.dir.path().into(),
        container_path: "/usr/nowhere/inside".into(),
        ..Mount::default()
    });
    let error = host.runtime.create_container(&sandbox, &config).unwrap_err();
    assert!(error.to_string().contains("/usr/nowhere/inside"), "{error}");
    assert!(host.runtime.list_containers(&ContainerFilter::default()).unwrap().is_empty());
    assert_eq!(fs::read_dir(host.dir.path().join("state/containers")).unwrap().count(), 0);
    let missing =
        ContainerConfig { image: ImageSpec::Stored("nothing:1".into()), ..script("app", "true") };
    let error = host.runtime.create_container(&sandbox, &missing).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn names_are_taken_once() {
    let host = Host::new();
    let sandbox = host.run_pod("twice");
    assert_eq!(
        host.runtime.run_pod_sandbox(&host.pod("twice")).unwrap_err().kind(),
        ErrorKind::AlreadyExists
    );
    host.runtime.create_container(&sandbox, &script("app", "true")).unwrap();
    let again = host.runtime.create_container(&sandbox, &script("app", "true"));
    assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let next = ContainerConfig { attempt: 1, ..script("app", "true") };
    host.runtime.create_container(&sandbox, &next).unwrap();
}

#[test]
fn commands_run_in_the_container_and_give_output_and_exit_code() {
    let host = Host::new();
    let sandbox = host.run_pod("exec");
    let config = ContainerConfig {
        env: vec![("WORD".into(), "from the container".into())],
        ..script("app", "echo up; exec sleep 1000")
    };
    let id = host.run(&sandbox, &config);
    host.wait_log("app", "up");
    let command = |script: &str| {
        words("/bin/sh -c").into_iter().chain([script.to_owned()]).collect::<Vec<_>>()
    };
    let run =
        |script: &str| host.runtime.exec_sync(&id, &command(script), Some(Duration::from_secs(20)));
    let output = run("echo $WORD; echo error >&2; exit 5").unwrap();
    assert_eq!(output.stdout, b"from the container\n");
    assert_eq!((output.stderr.as_slice(), output.exit_code), (&b"error\n"[..], 5));
    let init = run("tr '\\0' ' ' < /proc/1/cmdline; for n in pid mnt cgroup net ipc uts; do \
                    [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] || echo $n; done")
    .unwrap();
    assert_eq!(String::from_utf8(init.stdout).unwrap(), "sleep 1000 ");
    let big = run("head -c 3000000 /dev/zero").unwrap();
    assert_eq!(big.stdout.len(), 3_000_000);
    let slow = host.runtime.exec_sync(&id, &command("sleep 100"), Some(Duration::from_millis(200)));
    assert_eq!(slow.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    let missing = host.runtime.exec_sync(&id, &words("no-such-program"), None).unwrap_err();
    assert!(missing.to_string().contains("no-such-program"), "{missing}");
    wait_for("end of what was killed", || {
        let left = run("ps -e -o comm=,state= | grep -v Z").unwrap();
        String::from_utf8_lossy(&left.stdout).matches("sleep").count() <= 1
    });
}

#[test]
fn a_folder_is_a_root_that_is_never_written_to() {
    let host = Host::new();
    let root = host.dir.path().join("root");
    for dir in ["bin", "lib", "lib64", "usr", "etc", "data"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::write(root.join("data/file"), "original").unwrap();
    fs::write(root.join("data/doomed"), "x").unwrap();
    let bind = |path: &str| Mount {
        host_path: path.into(),
        container_path: path.into(),
        readonly: true,
        recursive: true,
        ..Mount::default()
    };
    let config = ContainerConfig {
        image: ImageSpec::Folder(root.clone()),
        mounts: ["/bin", "/lib", "/lib64", "/usr"].map(bind).into(),
        ..script(
            "app",
            "cat /data/file; echo; echo changed > /data/file; rm /data/doomed; \
                         cat /data/file; ls /data; touch /usr/x 2>/dev/null || echo read-only",
        )
    };
    let (status, log) = host.run_to_end(&config);
    let lines: Vec<&str> = log.iter().map(|(_, l)| l.as_str()).collect();
    assert_eq!(lines, ["original", "changed", "file", "read-only"]);
    assert_eq!(status.exit_code, 0);
    assert_eq!(fs::read_to_string(root.join("data/file")).unwrap(), "original");
    assert!(root.join("data/doomed").exists());
    assert!(status.image_id.starts_with("sha256:"));
}

#[test]
fn limits_are_set_changed_and_measured() {
    let host = Host::new();
    let sandbox = host.run_pod("limits");
    let config = ContainerConfig {
        resources: Resources {
            memory_limit: Some(64 << 20),
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            cpu_shares: Some(512),
            pids_limit: Some(20),
            ..Resources::default()
        },
        rlimits: vec![Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 100, hard: 200 }],
        ..script(
            "app",
            "ulimit -Sn; ulimit -Hn; dd if=/dev/zero of=/file bs=1k count=300 2>/dev/null; \
                         echo up; exec sleep 1000",
        )
    };
    let id = host.run(&sandbox, &config);
    host.wait_log("app", "up");
    let lines: Vec<String> = host.log("app").into_iter().map(|(_, l)| l).collect();
    assert_eq!(lines[..2], ["100", "200"]);
    let stats = host.runtime.container_stats(&id).unwrap();
    assert_eq!(stats.memory.limit_bytes, Some(64 << 20));
    assert!(stats.memory.usage_bytes > 0 && stats.cpu.usage_core_nanoseconds > 0);
    assert!(stats.writable_layer.used_bytes >= 300 << 10);
    assert_eq!(stats.pids, 1);
    let update = Resources {
        memory_limit: Some(32 << 20),
        cpu_quota: Some(-1),
        pids_limit: Some(10),
        ..Resources::default()
    };
    host.runtime.update_container_resources(&id, &update).unwrap();
    let stats = host.runtime.container_stats(&id).unwrap();
    assert_eq!(stats.memory.limit_bytes, Some(32 << 20));
    let status = host.runtime.container_status(&id).unwrap();
    assert_eq!(status.resources.memory_limit, Some(32 << 20));
    assert_eq!(status.resources.cpu_shares, Some(512));
    let pod = host.runtime.pod_sandbox_stats(&sandbox).unwrap();
    assert_eq!(pod.containers.len(), 1);
    assert!(pod.memory.usage_bytes > 0);
    assert_eq!(host.runtime.list_container_stats(&ContainerFilter::default()).unwrap().len(), 1);
}

#[test]
fn a_container_that_outgrows_its_memory_is_reported_as_oom_killed() {
    let host = Host::new();
    let config = ContainerConfig {
        resources: Resources { memory_limit: Some(16 << 20), ..Resources::default() },
        ..script("hungry", "x=aaaaaaaa; while :; do x=$x$x; done")
    };
    let (status, _) = host.run_to_end(&config);
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
}

#[test]
fn a_rotated_log_goes_on_in_a_new_file() {
    let host = Host::new();
    let sandbox = host.run_pod("rotate");
    let id = host
        .run(&sandbox, &script("app", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"));
    host.wait_log("app", "3");
    fs::rename(host.logs().join("app.log"), host.logs().join("old.log")).unwrap();
    host.runtime.reopen_container_log(&id).unwrap();
    wait_for("lines in the new log", || host.log("app").len() > 3);
    let numbers: Vec<u32> = host
        .log("old")
        .into_iter()
        .chain(host.log("app"))
        .map(|(_, l)| l.parse().unwrap())
        .collect();
    assert!(numbers.iter().enumerate().all(|(i, n)| *n as usize == i + 1), "{numbers:?}");
}

#[test]
fn lists_filter_by_state_sandbox_label_and_beginning_of_the_id() {
    let host = Host::new();
    let (a, b) = (host.run_pod("a"), host.run_pod("b"));
    let mut config = script("app", "exec sleep 1000");
    config.labels.insert("tier".into(), "front".into());
    let first = host.run(&a, &config);
    let second = host.runtime.create_container(&b, &script("app", "true")).unwrap();
    let list = |filter: ContainerFilter| -> Vec<String> {
        host.runtime.list_containers(&filter).unwrap().into_iter().map(|c| c.id).collect()
    };
    assert_eq!(list(ContainerFilter::default()), [second.clone(), first.clone()]);
    let running = ContainerFilter { state: Some(ContainerState::Running), ..Default::default() };
    assert_eq!(list(running), std::slice::from_ref(&first));
    let of_b = ContainerFilter { sandbox_id: Some(b.clone()), ..Default::default() };
    assert_eq!(list(of_b), [second]);
    let labelled = ContainerFilter {
        labels: [("tier".to_owned(), "front".to_owned())].into(),
        ..Default::default()
    };
    assert_eq!(list(labelled), std::slice::from_ref(&first));
    assert_eq!(host.runtime.container_status(&first[..20]).unwrap().id, first);
    host.runtime.stop_pod_sandbox(&a).unwrap();
    host.runtime.stop_pod_sandbox(&a).unwrap();
    let not_ready = PodFilter { state: Some(PodSandboxState::NotReady), ..Default::default() };
    let pods = host.runtime.list_pod_sandboxes(&not_ready).unwrap();
    assert_eq!(pods.len(), 1);
    assert_eq!(pods[0].id, a);
    assert_state(&host.runtime.container_status(&first).unwrap(), ContainerState::Exited);
}

#[test]
fn an_image_in_use_is_not_removed() {
    let host = Host::new();
    let root = host.dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let image = host.runtime.import_image(&ImageSource::Folder(root), Some("mine")).unwrap();
    let sandbox = host.run_pod("user");
    let config =
        ContainerConfig { image: ImageSpec::Stored("mine:latest".into()), ..script("app", "true") };
    let id = host.runtime.create_container(&sandbox, &config).unwrap();
    assert_eq!(
        host.runtime.remove_image("mine").unwrap_err().kind(),
        ErrorKind::FailedPrecondition
    );
    host.runtime.remove_container(&id).unwrap();
    host.runtime.remove_image(&image.id).unwrap();
    assert!(host.runtime.image_status("mine").unwrap().is_none());
    assert!(host.runtime.image_fs_info().unwrap().used_bytes > 0);
}
