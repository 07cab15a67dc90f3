//! An archive that was cut short is refused, and nothing of the attempt is left.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cryopod_cri::{Client, v1};

use crate::containers::{counting, last_count};
use crate::harness::{Node, stderr, wait_for};

const COUNTER: &str = "default/counter/counter";

/// What a node has on its machine: files, cgroups, processes and their mounts.
fn belongings(node: &Node) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut folders: Vec<PathBuf> = vec![node.folder().into()];
    let roots = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    folders.extend(roots.map(|root| root.path().join(node.cgroup())).filter(|path| path.is_dir()));
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                folders.push(path.clone());
            } else if folder.starts_with("/sys") {
                continue;
            }
            all.insert(path.display().to_string());
        }
    }
    let mine = node.folder().to_str().unwrap();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let process = entry.path();
        let text = |name: &str| {
            let bytes = std::fs::read(process.join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let cgroup = text("cgroup").lines().any(|line| line.contains(node.cgroup()));
        let command = text("cmdline").replace('\0', " ");
        if !cgroup && !command.contains(mine) {
            continue;
        }
        all.insert(format!("process {} {command}", process.display()));
        let mounts = text("mountinfo");
        let mounts = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        all.extend(mounts.map(|at| format!("mount {at} of {}", process.display())));
    }
    all
}

/// Waits until a node has what it had: a server's worker or a zombie may take a moment to go.
fn assert_has_only(node: &Node, before: &BTreeSet<String>, attempt: &str) {
    let mut now = BTreeSet::new();
    for _ in 0..500 {
        now = belongings(node);
        if now == *before {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let (more, less): (Vec<_>, Vec<_>) =
        (now.difference(before).collect(), before.difference(&now).collect());
    panic!("{attempt}: more {more:#?}, less {less:#?}");
}

/// Where an archive is cut: evenly, around the borders of its parts, and at its very end.
fn cuts(good: &[u8]) -> Vec<usize> {
    let archive_len = good.len();
    let mut cuts: BTreeSet<usize> = (0..150).map(|part| archive_len * part / 150).collect();
    let last = archive_len / 512 - 1;
    cuts.extend((1..30).map(|block| (last - block) * 512 - usize::from(block % 2 == 1)));
    let mut at = 1;
    while cuts.len() < 200 {
        cuts.insert(at);
        at += 509;
    }
    cuts.into_iter().collect()
}

fn write_cut(path: &Path, good: &[u8], cut: usize) {
    std::fs::write(path, &good[..cut]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_two_hundred_attempts_to_restore_a_cut_archive() {
    let node = Node::start();
    counting(&node, "counter");
    wait_for("some numbers", || (last_count(&node, "counter") > 5).then_some(()));
    let archive = PathBuf::from(node.ok(["checkpoint", COUNTER]).trim());
    node.ok(["rm", "--force", "default/counter"]);
    let good = std::fs::read(&archive).unwrap();
    let bad = node.folder().join("bad.tar");

    // Through CRI, into a sandbox that is there.
    let client = Client::connect(node.socket().to_str().unwrap()).await.unwrap();
    let sandbox = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "counter".into(),
            uid: "uid".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        log_directory: node.folder().join("logs/restored").to_str().unwrap().into(),
        ..Default::default()
    };
    let pod = client.run_pod_sandbox(sandbox.clone()).await.unwrap();
    let config = |archive: &Path| v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "counter".into(), attempt: 0 }),
        image: Some(v1::ImageSpec {
            image: archive.to_str().unwrap().into(),
            ..Default::default()
        }),
        log_path: "counter.log".into(),
        ..Default::default()
    };
    write_cut(&bad, &good, 0);
    let before = belongings(&node);
    for what in ["process /proc/", "/sys/fs/cgroup/", "mount /", node.folder().to_str().unwrap()] {
        assert!(before.iter().any(|one| one.starts_with(what)), "{what} in {before:#?}");
    }
    let cuts = cuts(&good);
    assert_eq!(cuts.len(), 200);
    for &cut in &cuts {
        write_cut(&bad, &good, cut);
        let made = client.create_container(&pod, config(&bad), sandbox.clone()).await;
        let error = made.expect_err(&format!("cut at {cut} was taken"));
        assert!(!error.to_string().contains("panicked"), "{error}");
        assert_has_only(&node, &before, &format!("cut at {cut}"));
    }
    client.remove_pod_sandbox(&pod).await.unwrap();

    // Through the command, which makes the sandbox too.
    let before = belongings(&node);
    for &cut in cuts.iter().step_by(10) {
        write_cut(&bad, &good, cut);
        let output = node.run(["restore", bad.to_str().unwrap()]);
        assert!(!output.status.success(), "cut at {cut} was restored");
        assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
        assert!(node.ps().is_empty(), "cut at {cut}");
        assert_has_only(&node, &before, &format!("cut at {cut}"));
    }
    assert!(!node.log().contains("panicked"));

    // It was the cut: the whole one is restored.
    node.ok(["restore", archive.to_str().unwrap()]);
    let at = last_count(&node, "counter");
    wait_for("it to count", || (last_count(&node, "counter") > at + 3).then_some(()));
}
