//! Checkpoint and restore by the commands: what is captured goes on, here and elsewhere, and what
//! cannot be done leaves nothing behind.

use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::process::Signal;

use crate::containers::{counting, last_count};
use crate::harness::{Node, stderr, wait_for};
use crate::images::make_root;

const COUNTER: &str = "default/counter/counter";

fn checkpoint(node: &Node, more: &[&str]) -> PathBuf {
    let mut args = vec!["checkpoint", COUNTER];
    args.extend(more);
    PathBuf::from(node.ok(args).trim())
}

fn archives(node: &Node) -> Vec<serde_json::Value> {
    serde_json::from_str(&node.ok(["list", "--output", "json"])).unwrap()
}

/// Every number a container told, by its log.
fn told(node: &Node, target: &str) -> Vec<u64> {
    node.ok(["logs", target]).lines().map(|line| line.parse().unwrap()).collect()
}

/// Every number once and in order.
fn assert_whole(numbers: &[u64]) {
    for (number, expected) in numbers.iter().zip(1..) {
        assert_eq!(*number, expected, "{numbers:?}");
    }
}

#[test]
fn a_container_goes_on_after_its_checkpoint_and_from_it() {
    let node = Node::start();
    counting(&node, "counter");
    wait_for("some numbers", || (last_count(&node, "counter") > 10).then_some(()));
    let archive = checkpoint(&node, &[]);
    assert_eq!(archive.parent(), Some(node.checkpoints().as_path()));
    assert_eq!(archive.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let at = last_count(&node, "counter");
    wait_for("it to go on", || (last_count(&node, "counter") > at + 10).then_some(()));

    let listed = archives(&node);
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["archive"], archive.to_str().unwrap());
    for (key, value) in [("namespace", "default"), ("pod", "counter"), ("container", "counter")] {
        assert_eq!(listed[0][key], value);
    }

    node.ok(["stop", "--grace", "0", COUNTER]);
    let all = told(&node, COUNTER);
    assert_whole(&all);
    let last = *all.last().unwrap();
    node.ok(["restore", archive.to_str().unwrap()]);
    wait_for("it to count again", || (last_count(&node, "counter") > last).then_some(()));
    // The log goes on, too: nothing lost, nothing told twice.
    assert_whole(&told(&node, COUNTER));
}

#[test]
fn stop_captures_and_stops_in_one_freeze() {
    let node = Node::start();
    counting(&node, "counter");
    wait_for("some numbers", || (last_count(&node, "counter") > 5).then_some(()));
    let archive = checkpoint(&node, &["--stop"]);
    assert_eq!(node.ps()[0]["state"], "exited");
    let before = told(&node, COUNTER);
    node.ok(["restore", archive.to_str().unwrap()]);
    let again = wait_for("more numbers", || {
        let again = told(&node, COUNTER);
        (again.len() > before.len() + 5).then_some(again)
    });
    // It told nothing after it was captured, and goes on with the very next number.
    assert_whole(&before);
    assert_whole(&again);
}

#[test]
fn probes_go_on_through_twenty_checkpoints() {
    let node = Node::start();
    counting(&node, "counter");
    let done = AtomicBool::new(false);
    let failures = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                node.ok(["exec", COUNTER, "--", "/bin/true"]);
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        });
        let failures: Vec<_> = (0..20)
            .map(|_| node.run(["checkpoint", COUNTER]))
            .filter(|output| !output.status.success())
            .map(|output| stderr(&output))
            .collect();
        done.store(true, Ordering::Relaxed);
        failures
    });
    assert!(failures.is_empty(), "{} of 20 failed: {failures:#?}", failures.len());
    assert_whole(&told(&node, COUNTER));
}

#[test]
fn a_restore_with_its_image_works_on_a_node_that_knows_nothing() {
    let from = Node::start();
    let root = from.folder().join("root");
    make_root(&root);
    let script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";
    let root_text = root.to_str().unwrap();
    from.ok(["run", "--name", "counter", "--rootfs", root_text, "--", "/bin/sh", "-c", script]);
    wait_for("some numbers", || (last_count(&from, "counter") > 5).then_some(()));
    let with = checkpoint(&from, &["--with-image", "--stop"]);

    let to = Node::start();
    let carried = to.folder().join("carried.tar");
    std::fs::rename(&with, &carried).unwrap();
    std::fs::rename(&root, from.folder().join("elsewhere")).unwrap();
    to.ok(["restore", carried.to_str().unwrap()]);
    wait_for("it to count", || (last_count(&to, "counter") > 30).then_some(()));
    assert_whole(&told(&to, COUNTER));
}

#[test]
fn a_restored_container_keeps_mounts_environment_limits_user_and_names() {
    let node = Node::start();
    let shared = node.folder().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("text"), "shared text\n").unwrap();
    let mount = format!("{}:/mnt:ro", shared.display());
    let script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";
    let args = ["run", "--host-programs", "--name", "counter", "--pod", "home", "--read-only"];
    let limits = ["--memory", "64M", "--cpus", "0.5", "--pids", "20", "--user", "1234:5678"];
    let more = ["--env", "WORD=two words", "--workdir", "/usr", "--mount", &mount];
    let command = ["--", "/bin/sh", "-c", script];
    node.ok([&args[..], &limits, &more, &command].concat());
    let target = "default/home/counter";
    wait_for("some numbers", || (told(&node, target).len() > 5).then_some(()));
    let look = |target: &str| {
        let told = "tr '\\0' '\\n' < /proc/1/environ; echo $WORD; pwd; id; cat /mnt/text; \
                    cat /proc/1/limits; grep -E '^(Cap|NoNew|Seccomp)' /proc/1/status; \
                    cut -d' ' -f2- /proc/1/mounts | grep -v '^/ '; touch /x 2>&1; \
                    cd /sys/fs/cgroup; \
                    cat memory/memory.limit_in_bytes memory.max pids/pids.max pids.max 2>/dev/null; \
                    cat /proc/sys/kernel/hostname; :";
        node.ok(["exec", target, "--", "/bin/sh", "-c", told])
    };
    let before = look(target);
    let archive = PathBuf::from(node.ok(["checkpoint", target, "--stop"]).trim());
    let archive = archive.to_str().unwrap();
    node.ok(["rm", "--force", "default/home"]);
    // What reaches out of the container is given again, or it is not restored.
    let text = node.fails(4, ["restore", archive]);
    assert!(text.contains("/mnt"), "{text}");
    assert!(node.ps().is_empty());
    let output = node.run(["restore", archive, "--pod", "away", "--mount", &mount]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("at most 64.00 MiB of memory"), "{}", stderr(&output));
    assert_eq!(look("default/away/counter"), before);
    assert!(before.contains("\n67108864\n20\n") && before.ends_with("home\n"), "{before}");
}

#[test]
fn what_cannot_be_done_says_so_and_leaves_nothing() {
    let node = Node::start();
    node.fails(3, ["checkpoint", COUNTER]);
    counting(&node, "counter");
    let taken = node.folder().join("taken.tar");
    std::fs::write(&taken, "mine").unwrap();
    let text = node.fails(4, ["checkpoint", COUNTER, "--archive", taken.to_str().unwrap()]);
    assert!(text.contains("is there already"), "{text}");
    assert_eq!(std::fs::read_to_string(&taken).unwrap(), "mine");
    let nowhere = node.folder().join("no/such/folder.tar");
    node.fails(1, ["checkpoint", COUNTER, "--archive", nowhere.to_str().unwrap()]);
    node.ok(["stop", "--grace", "0", COUNTER]);
    let text = node.fails(4, ["checkpoint", COUNTER]);
    assert!(text.contains("exited"), "{text}");
    assert!(archives(&node).is_empty());
    assert_eq!(std::fs::read_dir(node.checkpoints()).unwrap().count(), 0);
}

#[test]
fn a_damaged_archive_is_refused_and_nothing_is_made() {
    let node = Node::start();
    counting(&node, "counter");
    let archive = checkpoint(&node, &[]);
    node.ok(["rm", "--force", "default/counter"]);
    let good = std::fs::read(&archive).unwrap();
    let bad = node.folder().join("bad.tar");
    for part in 0..20 {
        let cut = good.len() * part / 20;
        std::fs::write(&bad, &good[..cut]).unwrap();
        let output = node.run(["restore", bad.to_str().unwrap()]);
        assert!(!output.status.success(), "cut at {cut} was restored");
        assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
        assert!(node.ps().is_empty(), "cut at {cut} left something");
    }
    // The first page of memory is there to be verified: one bit of it is enough.
    let mut flipped = good;
    let at = flipped.len() * 2 / 3;
    flipped[at] ^= 1;
    std::fs::write(&bad, &flipped).unwrap();
    node.run(["restore", bad.to_str().unwrap()]);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    node.run(["rm", "--force", "default/counter"]);
    assert!(node.ps().is_empty(), "{mounts}");
}

/// Everything in the folder of archives, by name.
fn in_folder(node: &Node) -> Vec<String> {
    let files = std::fs::read_dir(node.checkpoints()).unwrap();
    files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_server_killed_at_fifty_random_moments_of_checkpoints_leaves_no_part_of_one() {
    let mut node = Node::start();
    counting(&node, "counter");
    checkpoint(&node, &[]);
    let begun = Instant::now();
    checkpoint(&node, &[]);
    let usual = begun.elapsed();
    let seed = RandomState::new();
    let mut given_up = 0;
    for round in 0..50 {
        let mut asked = node
            .command(["checkpoint", COUNTER])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // From before it begins until after it has ended.
        let part = seed.hash_one(round) % 1200;
        std::thread::sleep(usual * u32::try_from(part).unwrap() / 1000);
        node.end_server(Signal::KILL);
        let status = wait_for("the command's end", || asked.try_wait().unwrap());
        given_up += u32::from(!status.success());
        node.restart();
        // The shim notices by itself that nobody wants the archive any more, and clears up. Only whole
        // archives are listed, before and after.
        let listed = wait_for("nothing but whole archives", || {
            let listed = archives(&node);
            (listed.len() == in_folder(&node).len()).then_some(listed)
        });
        for one in listed {
            let path = Path::new(one["archive"].as_str().unwrap());
            let archive = cryopod_archive::Archive::open(path).unwrap();
            archive.verify(&mut |_| ()).unwrap();
            std::fs::remove_file(path).unwrap();
        }
        let at = last_count(&node, "counter");
        wait_for("it to count on", || (last_count(&node, "counter") > at).then_some(()));
    }
    assert!(given_up > 5, "{given_up} of 50 were hit");
    let archive = checkpoint(&node, &[]);
    assert_whole(&told(&node, COUNTER));
    let listing = Command::new("tar").arg("tf").arg(&archive).output().unwrap();
    assert!(listing.status.success(), "{}", stderr(&listing));
}
