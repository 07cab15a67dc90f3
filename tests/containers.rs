//! The life of a container by the commands: run, ps, logs, exec, stop, rm.

use std::process::Stdio;

use crate::harness::{Node, stderr, stdout, wait_for};

/// Runs a container that counts lines; gives its id.
pub(crate) fn counting(node: &Node, name: &str) -> String {
    let script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";
    node.ok(["run", "--host-programs", "--name", name, "--", "/bin/sh", "-c", script])
        .trim()
        .to_owned()
}

/// The last number such a container told.
pub(crate) fn last_count(node: &Node, name: &str) -> u64 {
    let text = node.ok(["logs", "--tail", "1", &format!("default/{name}/{name}")]);
    text.trim().parse().unwrap_or(0)
}

fn script(node: &Node, name: &str, script: &str, more: &[&str]) {
    let mut args = vec!["run", "--host-programs", "--name", name];
    args.extend(more);
    args.extend(["--", "/bin/sh", "-c", script]);
    node.ok(args);
}

fn state(node: &Node) -> String {
    node.ps()[0]["state"].as_str().unwrap().to_owned()
}

fn wait_until_exited(node: &Node) {
    wait_for("the container's end", || (state(node) == "exited").then_some(()));
}

#[test]
fn a_container_runs_is_listed_stopped_and_removed() {
    let node = Node::start();
    let id = counting(&node, "counter");
    assert_eq!(id.len(), 64);
    let all = node.ps();
    assert_eq!(all.len(), 1);
    for (key, value) in [
        ("namespace", "default"),
        ("pod", "counter"),
        ("container", "counter"),
        ("state", "running"),
        ("id", id.as_str()),
    ] {
        assert_eq!(all[0][key], value);
    }
    let table = node.ok(["ps"]);
    assert!(table.starts_with("NAMESPACE") && table.contains(&id[..12]), "{table}");

    let text = node.fails(4, ["rm", "default/counter"]);
    assert!(text.contains("--force"), "{text}");
    node.ok(["stop", "--grace", "1", &id[..8]]);
    assert_eq!(state(&node), "exited");
    assert_eq!(node.ok(["ps"]).lines().count(), 1, "only the heading");
    node.ok(["rm", "default/counter/counter"]);
    assert!(node.ps().is_empty());
    let logs = std::fs::read_dir(node.folder().join("logs")).unwrap().count();
    assert_eq!(logs, 0, "its log is left");
    node.fails(3, ["stop", "default/counter/counter"]);
    // The pod went with its last container, so its name is free again.
    counting(&node, "counter");
}

#[test]
fn what_it_writes_is_logged_in_order_and_by_stream() {
    let node = Node::start();
    script(&node, "c", "for i in 1 2 3; do echo out $i; done; echo err >&2; printf end", &[]);
    wait_until_exited(&node);
    let output = node.run(["logs", "default/c"]);
    assert_eq!(stdout(&output), "out 1\nout 2\nout 3\nend\n");
    assert_eq!(stderr(&output), "err\n");
    assert_eq!(node.ok(["logs", "--tail", "2", "default/c/c"]).lines().last(), Some("end"));
    let timed = node.ok(["logs", "--timestamps", "default/c"]);
    assert!(timed.lines().all(|line| line.starts_with("20") && line.contains('T')), "{timed}");
}

#[test]
fn a_followed_log_ends_with_its_container() {
    let node = Node::start();
    script(&node, "c", "for i in 1 2 3 4 5; do echo $i; sleep 0.1; done", &[]);
    let output = node.run(["logs", "--follow", "default/c"]);
    assert_eq!(stdout(&output), "1\n2\n3\n4\n5\n");
}

#[test]
fn exec_gives_output_and_code_of_the_command() {
    let node = Node::start();
    counting(&node, "c");
    let output =
        node.run(["exec", "default/c/c", "--", "/bin/sh", "-c", "echo hi; echo no >&2; exit 7"]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(stdout(&output), "hi\n");
    assert_eq!(stderr(&output), "no\n");
    // It is inside: the pod's host name, and the container's first process has pid 1.
    assert_eq!(
        node.ok(["exec", "default/c/c", "--", "/bin/cat", "/proc/sys/kernel/hostname"]),
        "c\n"
    );
    node.fails(125, ["exec", "--timeout", "1", "default/c/c", "--", "/bin/sleep", "60"]);
    node.fails(125, ["exec", "default/none/c", "--", "/bin/true"]);
}

#[test]
fn environment_user_folder_and_mounts_reach_the_program() {
    let node = Node::start();
    let folder = node.folder().join("shared");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("file"), "shared text\n").unwrap();
    let mount = format!("{}:/mnt:ro", folder.display());
    let told =
        "echo $GREETING; id -u; id -g; pwd; cat /mnt/file; touch /mnt/x 2>/dev/null || echo ro";
    let options = ["--env", "GREETING=hello", "--user", "1234:5678", "--workdir", "/usr"];
    script(&node, "c", told, &[&options[..], &["--mount", &mount]].concat());
    wait_until_exited(&node);
    assert_eq!(node.ok(["logs", "default/c"]), "hello\n1234\n5678\n/usr\nshared text\nro\n");
}

#[test]
fn the_hosts_programs_are_read_only() {
    let node = Node::start();
    script(&node, "c", "touch /usr/cryopod-test 2>/dev/null || echo refused", &[]);
    wait_until_exited(&node);
    assert_eq!(node.ok(["logs", "default/c"]), "refused\n");
    assert!(!std::path::Path::new("/usr/cryopod-test").exists());
}

#[test]
fn a_private_network_has_loopback_only() {
    let node = Node::start();
    script(&node, "c", "cat /proc/net/dev | tail -n +3 | cut -d: -f1", &[]);
    wait_until_exited(&node);
    assert_eq!(node.ok(["logs", "default/c"]).trim(), "lo");
}

#[test]
fn limits_hold_in_the_containers_cgroup() {
    let node = Node::start();
    script(&node, "c", "sleep 600", &["--memory", "64M", "--cpus", "0.5", "--pids", "20"]);
    // As many processes as are allowed, and no more.
    let fork = "for i in $(seq 40); do sleep 5 & done; echo all";
    let output = node.run(["exec", "default/c/c", "--", "/bin/sh", "-c", fork]);
    assert_ne!(stdout(&output), "all\n", "{}", stderr(&output));
}

#[test]
fn a_rootfs_folder_is_not_written_to() {
    let node = Node::start();
    let root = node.folder().join("root");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    // Our own program is in a root of its own: what it needs besides comes by mounts.
    std::fs::write(root.join("marker"), "mine").unwrap();
    let mut args: Vec<String> = ["run", "--name", "c", "--rootfs"].map(str::to_owned).into();
    args.push(root.to_str().unwrap().to_owned());
    for path in ["/usr", "/lib", "/lib64"] {
        if std::path::Path::new(path).exists() {
            args.extend(["--mount".to_owned(), format!("{path}:{path}:ro")]);
        }
    }
    let told =
        "read text < /marker; echo $text; echo new > /written; read text < /written; echo $text";
    args.extend(["--", "/usr/bin/sh", "-c", told].map(str::to_owned));
    node.ok(args);
    wait_until_exited(&node);
    assert_eq!(node.ok(["logs", "default/c"]), "mine\nnew\n");
    assert!(!root.join("written").exists());
}

#[test]
fn two_containers_of_a_pod_share_its_network_and_not_its_processes() {
    let node = Node::start();
    counting(&node, "one");
    node.ok(["run", "--host-programs", "--pod", "one", "--name", "two", "--", "/bin/sleep", "600"]);
    let link = |name: &str, of: &str| {
        let path = format!("/proc/self/ns/{of}");
        node.ok(["exec", &format!("default/one/{name}"), "--", "/bin/readlink", &path])
    };
    for shared in ["net", "uts", "ipc"] {
        assert_eq!(link("one", shared), link("two", shared), "{shared}");
    }
    for own in ["pid", "mnt"] {
        assert_ne!(link("one", own), link("two", own), "{own}");
    }
    let text = node.fails(2, ["logs", "default/one"]);
    assert!(text.contains("default/one/two"), "the choices are named: {text}");
    let text = node.fails(4, ["run", "--host-programs", "--pod", "one", "--name", "two"]);
    assert!(text.contains("runs already"), "{text}");
    let host = ["run", "--host-programs", "--pod", "one", "--name", "x", "--network", "host"];
    assert!(node.fails(4, host).contains("--network private"));
}

#[test]
fn a_program_that_is_not_there_leaves_nothing_behind() {
    let node = Node::start();
    let text =
        stderr(&node.run(["run", "--host-programs", "--name", "c", "--", "/no/such/program"]));
    assert!(text.contains("/no/such/program"), "{text}");
    assert!(node.ps().is_empty());
}

#[test]
fn exec_goes_on_while_others_are_called() {
    let node = Node::start();
    counting(&node, "c");
    let mut children: Vec<_> = (0..8)
        .map(|_| {
            node.command(["exec", "default/c/c", "--", "/bin/sh", "-c", "sleep 0.2; echo done"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    node.ok(["ps"]);
    for child in children.drain(..) {
        let output = child.wait_with_output().unwrap();
        assert_eq!(stdout(&output), "done\n");
    }
}
