//! The folder of archives by the commands: what `prune` deletes, what `pin` protects, and that
//! `serve` keeps to the same policies.

use std::path::Path;
use std::time::{Duration, SystemTime};

use cryopod_archive::ArchiveWriter;
use serde_json::{Value, json};

use crate::containers::counting;
use crate::harness::{Node, cryopod, stderr, stdout, wait_for};

/// An archive of a container, finished so many hours ago.
fn archive(folder: &Path, name: &str, [namespace, pod, container]: [&str; 3], hours: u64) {
    let mut writer = ArchiveWriter::create(folder).unwrap();
    let spec = json!({"annotations": {
        "io.kubernetes.cri.sandbox-namespace": namespace,
        "io.kubernetes.cri.sandbox-name": pod,
        "io.kubernetes.cri.container-name": container,
    }});
    writer.put("config.dump", b"{}", 0o600).unwrap();
    writer.put("spec.dump", spec.to_string().as_bytes(), 0o600).unwrap();
    writer.finish(name.as_ref()).unwrap();
    let file = std::fs::File::options().append(true).open(folder.join(name)).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600)).unwrap();
}

/// Three archives of one container, `1` the oldest, and one of another.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, hours) in [("1.tar", 30), ("2.tar", 20), ("3.tar", 10)] {
        archive(folder.path(), name, ["default", "counter", "app"], hours);
    }
    archive(folder.path(), "other.tar", ["default", "other", "app"], 40);
    folder
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Runs a command on a folder; its exit code, stdout and stderr.
fn on(folder: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let output = cryopod(args).arg("--dir").arg(folder).output().unwrap();
    (output.status.code(), stdout(&output), stderr(&output))
}

#[test]
fn a_dry_run_shows_what_goes_and_why_and_prune_then_does_it() {
    let folder = folder();
    let args = ["prune", "--keep-per-container", "2"];
    let (code, dry, notes) = on(folder.path(), &[&args[..], &["--dry-run"]].concat());
    assert_eq!(code, Some(0), "{notes}");
    assert!(
        dry.contains("1.tar") && dry.contains("container default/counter/app keeps the newest 2")
    );
    assert!(!dry.contains("2.tar") && !dry.contains("other.tar"), "{dry}");
    assert!(notes.contains("1 would be deleted"), "{notes}");
    assert_eq!(names(folder.path()).len(), 4);
    let (code, wet, notes) = on(folder.path(), &args);
    assert_eq!((code, &wet), (Some(0), &dry), "{notes}");
    assert!(notes.contains("1 deleted"), "{notes}");
    assert_eq!(names(folder.path()), ["2.tar", "3.tar", "other.tar"]);
    let (code, _, notes) = on(folder.path(), &args);
    assert_eq!(code, Some(0));
    assert!(notes.contains("0 deleted"), "{notes}");
}

#[test]
fn every_limit_of_the_command_line_counts() {
    for (args, left) in [
        (&["--keep-per-pod", "1"][..], &["3.tar", "other.tar"][..]),
        (&["--keep-per-namespace", "2"], &["2.tar", "3.tar"]),
        (&["--keep", "1"], &["3.tar"]),
        (&["--max-age", "25h"], &["2.tar", "3.tar"]),
        (&["--max-age", "1d", "--keep", "1"], &["3.tar"]),
        (&["--max-size", "1Mi"], &["1.tar", "2.tar", "3.tar", "other.tar"]),
        (&["--max-size", "1k"], &[]),
        (&["--max-total-size", "1k"], &[]),
        (&["--min-free", "99.99%"], &[]),
        (&["--min-free", "0.01%"], &["1.tar", "2.tar", "3.tar", "other.tar"]),
    ] {
        let folder = folder();
        let (code, _, notes) = on(folder.path(), &[&["prune"], args].concat());
        assert_eq!(code, Some(0), "{args:?}: {notes}");
        assert_eq!(names(folder.path()), left, "{args:?}: {notes}");
    }
}

#[test]
fn prune_tells_programs_everything() {
    let folder = folder();
    std::fs::write(folder.path().join("notes.tar"), "not an archive").unwrap();
    std::fs::write(folder.path().join("3.tar.keep"), "").unwrap();
    let args = ["prune", "--max-age", "5h", "--keep", "1", "--output", "json", "--dry-run"];
    let (code, told, notes) = on(folder.path(), &args);
    assert_eq!(code, Some(0), "{notes}");
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["dryRun"], true);
    let archives = |key: &str| -> Vec<String> {
        let rows = told[key].as_array().unwrap().iter();
        rows.map(|row| row["archive"].as_str().unwrap().to_owned()).collect()
    };
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    assert_eq!(archives("deleted"), ["other.tar", "1.tar", "2.tar"].map(path));
    assert_eq!(archives("leftAlone"), [path("notes.tar")]);
    assert_eq!(told["deleted"][0]["why"], "an archive of this node is kept for 5h");
    assert!(told["deleted"][0]["bytes"].as_u64().unwrap() > 0);
    for key in ["inUse", "failed", "blocked"] {
        assert_eq!(told[key], json!([]), "{key}");
    }
    // Where pins are in the way, they are named.
    for name in ["1", "2"] {
        std::fs::write(folder.path().join(format!("{name}.tar.keep")), "").unwrap();
    }
    let (_, told, _) = on(folder.path(), &args);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["blocked"][0]["limit"], "this node keeps the newest 1");
    assert_eq!(told["blocked"][0]["pinned"], json!(["1.tar", "2.tar", "3.tar"]));
}

#[test]
fn a_file_of_policies_counts_and_options_go_over_it() {
    let folder = folder();
    let files = tempfile::tempdir().unwrap();
    let policy = files.path().join("retention.yaml");
    let text = "globalPolicy: {maxCheckpointsPerContainer: 1}\n\
                podPolicies: [{namespace: default, pod: counter, maxCheckpoints: 2}]\n\
                nodePolicy: {maxCheckpoints: 1}\n";
    std::fs::write(&policy, text).unwrap();
    let policy = policy.to_str().unwrap();
    let args = ["prune", "--policy", policy, "--keep", "9"];
    let (code, _, notes) = on(folder.path(), &args);
    assert_eq!(code, Some(0), "{notes}");
    assert_eq!(names(folder.path()), ["2.tar", "3.tar", "other.tar"]);
    let (code, _, notes) = on(folder.path(), &args[..3]);
    assert_eq!(code, Some(0), "{notes}");
    assert_eq!(names(folder.path()), ["3.tar"]);
    std::fs::write(policy, "globalPolicy: {maxCheckpointSize: 10}").unwrap();
    let (code, _, notes) = on(folder.path(), &args[..3]);
    assert_eq!(code, Some(2));
    assert!(notes.contains("write 10Mi"), "{notes}");
    let (code, _, notes) = on(folder.path(), &["prune", "--policy", "/no/such.yaml"]);
    assert_eq!(code, Some(2));
    assert!(notes.contains("/no/such.yaml"), "{notes}");
}

#[test]
fn without_a_limit_nothing_is_pruned_and_wrong_ones_are_refused() {
    let folder = folder();
    for args in [
        &["prune"][..],
        &["prune", "--dry-run"],
        &["prune", "--keep", "0"],
        &["prune", "--max-size", "10"],
        &["prune", "--max-age", "0s"],
        &["prune", "--min-free", "100%"],
    ] {
        let (code, _, notes) = on(folder.path(), args);
        assert_eq!(code, Some(2), "{args:?}: {notes}");
    }
    assert_eq!(names(folder.path()).len(), 4);
}

#[test]
fn pinned_archives_stay_and_are_shown() {
    let folder = folder();
    let (code, told, notes) = on(folder.path(), &["pin", "1.tar"]);
    assert_eq!(code, Some(0), "{notes}");
    assert_eq!(told.trim(), folder.path().join("1.tar").to_str().unwrap());
    assert!(folder.path().join("1.tar.keep").exists());
    let (_, told, _) = on(folder.path(), &["list", "--output", "json"]);
    let told: Vec<Value> = serde_json::from_str(&told).unwrap();
    let pinned: Vec<&Value> = told.iter().filter(|row| row["pinned"] == true).collect();
    assert_eq!(pinned.len(), 1);
    assert!(pinned[0]["archive"].as_str().unwrap().ends_with("/1.tar"));
    let (_, told, _) = on(folder.path(), &["list"]);
    let line = told.lines().find(|line| line.ends_with("/1.tar")).unwrap();
    assert!(line.contains(" yes "), "{told}");
    on(folder.path(), &["prune", "--keep", "1"]);
    assert_eq!(names(folder.path()), ["1.tar", "1.tar.keep"]);
    // A path says its folder by itself.
    let path = folder.path().join("1.tar");
    let output = cryopod(["unpin"]).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(names(folder.path()), ["1.tar"]);
    let (code, _, notes) = on(folder.path(), &["unpin", "1.tar"]);
    assert_eq!((code, notes.contains("was not pinned")), (Some(0), true), "{notes}");
    for (name, code) in [("none.tar", 3), ("none", 2), (".x.tar", 2)] {
        for command in ["pin", "unpin"] {
            let (got, _, notes) = on(folder.path(), &[command, name]);
            assert_eq!(got, Some(code), "{command} {name}: {notes}");
        }
    }
}

#[test]
fn an_archive_that_another_process_reads_is_deleted_later() {
    let folder = folder();
    let held = std::fs::File::open(folder.path().join("1.tar")).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockShared).unwrap();
    let args = ["prune", "--keep-per-container", "2"];
    let (code, _, notes) = on(folder.path(), &args);
    assert_eq!(code, Some(0), "{notes}");
    assert!(notes.contains("in use, to be deleted later") && notes.contains("1.tar"), "{notes}");
    // No other goes in its place.
    assert_eq!(names(folder.path()).len(), 4);
    drop(held);
    on(folder.path(), &args);
    assert_eq!(names(folder.path()), ["2.tar", "3.tar", "other.tar"]);
}

#[test]
fn serve_keeps_to_its_policies_after_each_checkpoint() {
    let files = tempfile::tempdir().unwrap();
    let policy = files.path().join("retention.yaml");
    // Longer than the test: what happens is because of the checkpoints.
    let text = "globalPolicy: {maxCheckpointsPerContainer: 2}\ninterval: 1d\n";
    std::fs::write(&policy, text).unwrap();
    let node = Node::start_with(&["--retention-policy", policy.to_str().unwrap()]);
    counting(&node, "counter");
    let mut made = Vec::new();
    for round in 1..=4 {
        let path = node.ok(["checkpoint", "default/counter/counter"]).trim().to_owned();
        made.push(Path::new(&path).file_name().unwrap().to_str().unwrap().to_owned());
        let left = &made[made.len().saturating_sub(2)..];
        wait_for("the older ones to go", || (names(&node.checkpoints()).len() <= 2).then_some(()));
        let mut left = left.to_vec();
        left.sort();
        assert_eq!(names(&node.checkpoints()), left, "round {round}");
        if round == 3 {
            // The node's folder is found without being named.
            node.ok(["pin", &made[1]]);
            node.ok(["unpin", &made[1]]);
        }
    }
    assert!(node.log().contains("archive deleted"), "{}", node.log());
    assert!(node.log().contains("container default/counter/counter keeps the newest 2"));
}

#[test]
fn serve_refuses_policies_that_it_does_not_understand() {
    let files = tempfile::tempdir().unwrap();
    let policy = files.path().join("retention.yaml");
    std::fs::write(&policy, "globalPolicy: {maxCheckpoints: 2}\n").unwrap();
    let output = cryopod(["serve", "--retention-policy"])
        .arg(&policy)
        .arg("--root-dir")
        .arg(files.path().join("root"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("maxCheckpoints"), "{}", stderr(&output));
}
