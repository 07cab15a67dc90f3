//! The CRI server as a kubelet or crictl uses it.

use std::collections::BTreeMap;
use std::time::Duration;

use cryopod_cri::v1::{self, ContainerState, PodSandboxState};
use cryopod_cri::{Client, Code, CriError};

use crate::harness::Node;

async fn client(node: &Node) -> Client {
    Client::connect(node.socket().to_str().unwrap()).await.unwrap()
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn sandbox(node: &Node, name: &str) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.into(),
            uid: format!("uid-{name}"),
            namespace: "tests".into(),
            attempt: 3,
        }),
        hostname: "inside".into(),
        log_directory: node.folder().join("pod-logs").join(name).to_str().unwrap().into(),
        labels: map(&[("app", name), ("tier", "test")]),
        annotations: map(&[("note", "a \"quoted\"\nvalue"), ("empty", "")]),
        ..Default::default()
    }
}

fn container(name: &str, script: &str) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: name.into(), attempt: 1 }),
        image: Some(v1::ImageSpec { image: "host:".into(), ..Default::default() }),
        command: ["/bin/sh", "-c"].map(str::to_owned).into(),
        args: vec![script.into()],
        labels: map(&[("name", name)]),
        annotations: map(&[("key", "väl=ue")]),
        log_path: format!("{name}.log"),
        ..Default::default()
    }
}

async fn state(client: &Client, id: &str) -> ContainerState {
    client.container_status(id, false).await.unwrap().status.unwrap().state()
}

async fn exited(client: &Client, id: &str) -> v1::ContainerStatus {
    for _ in 0..6000 {
        let status = client.container_status(id, false).await.unwrap().status.unwrap();
        if status.state() == ContainerState::ContainerExited {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{id} does not end");
}

fn code<T: std::fmt::Debug>(result: Result<T, CriError>) -> Code {
    result.unwrap_err().code()
}

#[tokio::test]
async fn a_pods_life_is_told_step_by_step() {
    let node = Node::start();
    let client = client(&node).await;
    let config = sandbox(&node, "pod");
    let pod = client.run_pod_sandbox(config.clone()).await.unwrap();

    let answer = client.pod_sandbox_status(&pod, true).await.unwrap();
    let status = answer.status.unwrap();
    assert_eq!(status.state(), PodSandboxState::SandboxReady);
    assert_eq!(status.metadata, config.metadata);
    assert_eq!(status.labels, config.labels);
    assert_eq!(status.annotations, config.annotations);
    assert!(status.created_at > 0);
    let info: serde_json::Value = serde_json::from_str(&answer.info["info"]).unwrap();
    assert!(info["pid"].as_i64().unwrap() > 0);

    let made = container("c", "cat /proc/sys/kernel/hostname; sleep 600");
    let id = client.create_container(&pod, made.clone(), config.clone()).await.unwrap();
    assert_eq!(state(&client, &id).await, ContainerState::ContainerCreated);
    client.start_container(&id).await.unwrap();
    let answer = client.container_status(&id, true).await.unwrap();
    let status = answer.status.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    assert_eq!(status.metadata, made.metadata);
    assert_eq!(status.labels, made.labels);
    assert_eq!(status.annotations, made.annotations);
    assert_eq!(status.image.unwrap().image, "host:");
    assert!(status.started_at >= status.created_at);
    assert_eq!(status.finished_at, 0);
    let info: serde_json::Value = serde_json::from_str(&answer.info["info"]).unwrap();
    let pid = info["pid"].as_i64().unwrap();
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(info["runtimeSpec"]["process"]["args"][0], "/bin/sh");

    crate::harness::wait_for("the name in the log", || {
        let log = std::fs::read_to_string(&status.log_path).ok()?;
        log.ends_with(" stdout F inside\n").then_some(())
    });

    client.stop_container(&id, Duration::ZERO).await.unwrap();
    let status = exited(&client, &id).await;
    assert_eq!(status.exit_code, 137);
    assert!(status.finished_at >= status.started_at);

    client.remove_container(&id).await.unwrap();
    assert_eq!(code(client.container_status(&id, false).await), Code::NotFound);
    client.stop_pod_sandbox(&pod).await.unwrap();
    let status = client.pod_sandbox_status(&pod, false).await.unwrap().status.unwrap();
    assert_eq!(status.state(), PodSandboxState::SandboxNotready);
    client.remove_pod_sandbox(&pod).await.unwrap();
    assert_eq!(code(client.pod_sandbox_status(&pod, false).await), Code::NotFound);

    // All four once more, and for what never was: done is done.
    for id in [id.as_str(), "0000"] {
        client.stop_container(id, Duration::ZERO).await.unwrap();
        client.remove_container(id).await.unwrap();
        client.stop_pod_sandbox(id).await.unwrap();
        client.remove_pod_sandbox(id).await.unwrap();
    }
}

#[tokio::test]
async fn lists_are_filtered_by_every_field_at_once() {
    let node = Node::start();
    let client = client(&node).await;
    let mut pods = Vec::new();
    for name in ["a", "b"] {
        let config = sandbox(&node, name);
        let pod = client.run_pod_sandbox(config.clone()).await.unwrap();
        let id = client.create_container(&pod, container("c", "sleep 600"), config).await.unwrap();
        pods.push((pod, id));
    }
    client.start_container(&pods[0].1).await.unwrap();

    let pods_by = async |filter: v1::PodSandboxFilter| {
        let all = client.list_pod_sandbox(Some(filter), None).await.unwrap();
        all.into_iter().map(|pod| pod.id).collect::<Vec<_>>()
    };
    let label_selector = map(&[("app", "b")]);
    let filter = v1::PodSandboxFilter { label_selector, ..Default::default() };
    assert_eq!(pods_by(filter.clone()).await, [pods[1].0.clone()]);
    let filter = v1::PodSandboxFilter { id: pods[0].0.clone(), ..filter };
    assert!(pods_by(filter).await.is_empty(), "id and label must both hold");
    let ready = Some(v1::PodSandboxStateValue { state: PodSandboxState::SandboxReady.into() });
    let filter = v1::PodSandboxFilter { state: ready, ..Default::default() };
    assert_eq!(pods_by(filter).await.len(), 2);
    assert_eq!(pods_by(v1::PodSandboxFilter::default()).await.len(), 2);

    let containers_by = async |filter: v1::ContainerFilter| {
        let all = client.list_containers(Some(filter), None).await.unwrap();
        all.into_iter().map(|one| one.id).collect::<Vec<_>>()
    };
    let value = |state: ContainerState| Some(v1::ContainerStateValue { state: state.into() });
    for (state, expected) in
        [(ContainerState::ContainerRunning, &pods[0]), (ContainerState::ContainerCreated, &pods[1])]
    {
        let filter = v1::ContainerFilter { state: value(state), ..Default::default() };
        assert_eq!(containers_by(filter).await, std::slice::from_ref(&expected.1));
    }
    let filter = v1::ContainerFilter { pod_sandbox_id: pods[1].0.clone(), ..Default::default() };
    assert_eq!(containers_by(filter).await, [pods[1].1.clone()]);
    let label_selector = map(&[("name", "other")]);
    let filter = v1::ContainerFilter { label_selector, ..Default::default() };
    assert!(containers_by(filter).await.is_empty());
}

#[tokio::test]
async fn names_are_taken_until_they_are_removed() {
    let node = Node::start();
    let client = client(&node).await;
    let config = sandbox(&node, "pod");
    let pod = client.run_pod_sandbox(config.clone()).await.unwrap();
    assert_eq!(code(client.run_pod_sandbox(config.clone()).await), Code::AlreadyExists);
    let one = container("c", "sleep 600");
    let id = client.create_container(&pod, one.clone(), config.clone()).await.unwrap();
    let again = client.create_container(&pod, one.clone(), config.clone()).await;
    assert_eq!(code(again), Code::AlreadyExists);
    client.remove_container(&id).await.unwrap();
    client.create_container(&pod, one, config).await.unwrap();
}

#[tokio::test]
async fn errors_have_the_codes_a_kubelet_tells_apart() {
    let node = Node::start();
    let client = client(&node).await;
    let config = sandbox(&node, "pod");
    let one = container("c", "exit 3");
    let missing = client.create_container("0000", one.clone(), config.clone()).await;
    assert_eq!(code(missing), Code::NotFound);
    assert_eq!(code(client.start_container("0000").await), Code::NotFound);
    let pod = client.run_pod_sandbox(config.clone()).await.unwrap();
    let mut other = one.clone();
    other.image = Some(v1::ImageSpec { image: "no/such:image".into(), ..Default::default() });
    let unknown = client.create_container(&pod, other.clone(), config.clone()).await;
    assert_eq!(code(unknown), Code::NotFound);
    other.image = Some(v1::ImageSpec { image: "/no/such.tar".into(), ..Default::default() });
    let unknown = client.create_container(&pod, other, config.clone()).await;
    assert_eq!(code(unknown), Code::NotFound);
    let id = client.create_container(&pod, one, config).await.unwrap();
    let command = vec!["/bin/true".to_owned()];
    let early = client.exec_sync(&id, command.clone(), Duration::ZERO).await;
    assert_eq!(code(early), Code::FailedPrecondition);
    client.start_container(&id).await.unwrap();
    assert_eq!(exited(&client, &id).await.exit_code, 3);
    assert_eq!(code(client.start_container(&id).await), Code::FailedPrecondition);
    let late = client.exec_sync(&id, command, Duration::ZERO).await;
    assert_eq!(code(late), Code::FailedPrecondition);
}

#[tokio::test]
async fn exec_sync_ends_at_its_time_limit() {
    let node = Node::start();
    let client = client(&node).await;
    let config = sandbox(&node, "pod");
    let pod = client.run_pod_sandbox(config.clone()).await.unwrap();
    let id = client.create_container(&pod, container("c", "sleep 600"), config).await.unwrap();
    client.start_container(&id).await.unwrap();
    let sleep = ["/bin/sleep", "300"].map(str::to_owned).to_vec();
    let result = client.exec_sync(&id, sleep, Duration::from_secs(1)).await;
    assert_eq!(code(result), Code::DeadlineExceeded);
    // Output without end is cut, and does not hang the call.
    let yes = "head -c 20000000 /dev/zero; echo end >&2";
    let command = ["/bin/sh", "-c", yes].map(str::to_owned).to_vec();
    let done = client.exec_sync(&id, command, Duration::ZERO).await;
    let done = done.unwrap();
    assert!(done.stdout.len() > 15 << 20, "{}", done.stdout.len());
    assert_eq!(done.stderr, b"end\n");
}

#[tokio::test]
async fn usage_and_limits_are_told_and_changed() {
    let node = Node::start();
    let client = client(&node).await;
    let config = sandbox(&node, "pod");
    let pod = client.run_pod_sandbox(config.clone()).await.unwrap();
    let mut one = container("c", "while :; do :; done");
    one.linux = Some(v1::LinuxContainerConfig {
        resources: Some(v1::LinuxContainerResources {
            memory_limit_in_bytes: 64 << 20,
            cpu_quota: 20_000,
            cpu_period: 100_000,
            ..Default::default()
        }),
        ..Default::default()
    });
    let id = client.create_container(&pod, one, config).await.unwrap();
    client.start_container(&id).await.unwrap();
    let used = async || {
        let stats = client.container_stats(&id).await.unwrap().unwrap();
        assert_eq!(stats.attributes.unwrap().id, id);
        assert!(stats.memory.unwrap().usage_bytes.unwrap().value > 0);
        stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value
    };
    let before = used().await;
    for _ in 0..6000 {
        if used().await > before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(used().await > before);
    assert_eq!(client.list_container_stats(None).await.unwrap().len(), 1);
    let stats = client.pod_sandbox_stats(&pod).await.unwrap().unwrap();
    assert!(stats.linux.unwrap().process.unwrap().process_count.unwrap().value >= 1);
    assert_eq!(client.list_pod_sandbox_stats(None).await.unwrap().len(), 1);

    let limits =
        v1::LinuxContainerResources { memory_limit_in_bytes: 128 << 20, ..Default::default() };
    client.update_container_resources(&id, limits).await.unwrap();
    let status = client.container_status(&id, false).await.unwrap().status.unwrap();
    let now = status.resources.unwrap().linux.unwrap();
    assert_eq!(now.memory_limit_in_bytes, 128 << 20);
    assert_eq!(now.cpu_quota, 20_000, "what is not given stays");
    let usage = client.image_fs_info().await.unwrap();
    assert_eq!(usage.image_filesystems.len(), 1);
}

#[tokio::test]
async fn a_rotated_log_is_opened_again() {
    let node = Node::start();
    let client = client(&node).await;
    let config = sandbox(&node, "pod");
    let pod = client.run_pod_sandbox(config.clone()).await.unwrap();
    let script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";
    let id = client.create_container(&pod, container("c", script), config).await.unwrap();
    client.start_container(&id).await.unwrap();
    let status = client.container_status(&id, false).await.unwrap().status.unwrap();
    let log = std::path::PathBuf::from(status.log_path);
    let rotated = log.with_extension("rotated");
    let numbers = |path: &std::path::Path| -> Vec<u64> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect()
    };
    crate::harness::wait_for("some lines", || (numbers(&log).len() > 3).then_some(()));
    std::fs::rename(&log, &rotated).unwrap();
    client.reopen_container_log(&id).await.unwrap();
    crate::harness::wait_for("new lines", || (numbers(&log).len() > 3).then_some(()));
    client.stop_container(&id, Duration::ZERO).await.unwrap();
    let all = [numbers(&rotated), numbers(&log)].concat();
    for pair in all.windows(2) {
        assert_eq!(pair[1], pair[0] + 1, "{all:?}");
    }
}
