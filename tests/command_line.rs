//! The command line teaches, and its exit codes can be told apart.

use crate::harness::{cryopod, stderr, stdout};

const COMMANDS: [&str; 16] = [
    "serve",
    "run",
    "ps",
    "logs",
    "stop",
    "rm",
    "exec",
    "checkpoint",
    "list",
    "prune",
    "pin",
    "unpin",
    "restore",
    "demo",
    "config",
    "version",
];

#[test]
fn help_names_every_command_and_every_exit_code() {
    let output = cryopod(["--help"]).output().unwrap();
    assert!(output.status.success());
    let text = stdout(&output);
    for command in COMMANDS {
        assert!(text.contains(&format!("\n  {command} ")), "{command} is not in\n{text}");
    }
    for code in ["0 done", "1 failed", "2 wrong usage", "3 not found", "4 refused", "5 a time"] {
        assert!(text.contains(code), "{code}");
    }
    assert!(!text.contains("counter  "), "helpers are hidden");
}

#[test]
fn every_command_explains_itself() {
    for command in COMMANDS {
        let output = cryopod([command, "--help"]).output().unwrap();
        assert!(output.status.success(), "{command}");
        assert!(stdout(&output).contains("Usage: cryopod"), "{command}");
    }
}

#[test]
fn where_an_archive_is_made_its_secrets_are_named() {
    for args in [vec!["--help"], vec!["checkpoint", "--help"]] {
        let text = stdout(&cryopod(args).output().unwrap());
        assert!(text.contains("everything the container's memory held"), "{text}");
    }
}

#[test]
fn wrong_usage_is_2() {
    for args in [vec!["no-such-command"], vec!["run"], vec!["stop", "a/b/c/d"], vec!["exec", "x"]] {
        let output = cryopod(&args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn nobody_there_is_6_and_says_what_to_start() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("none.sock");
    for args in [&["ps"][..], &["stop", "a/b/c"], &["checkpoint", "a/b/c"]] {
        let output = cryopod(args).arg("--socket").arg(&socket).output().unwrap();
        assert_eq!(output.status.code(), Some(6), "{args:?}");
        let text = stderr(&output);
        assert_eq!(text.lines().count(), 1, "said once: {text}");
        assert!(text.contains("cryopod serve") && text.contains("none.sock"), "{text}");
    }
}

#[test]
fn version_answers_without_a_server() {
    let output = cryopod(["version", "--socket", "/no/such.sock"]).output().unwrap();
    assert!(output.status.success());
    let text = stdout(&output);
    assert!(text.starts_with(concat!("cryopod ", env!("CARGO_PKG_VERSION"), "\n")), "{text}");
    assert!(text.contains("no runtime answers"), "{text}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    use std::process::Stdio;
    let mut child = cryopod(["version", "--socket", "/no/such.sock"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(output.stderr.is_empty(), "{}", stderr(&output));
}

#[test]
fn a_folder_without_archives_lists_none() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("notes.txt"), "x").unwrap();
    let list = |dir: &std::path::Path| {
        let output = cryopod(["list", "--output", "json", "--dir"]).arg(dir).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    assert_eq!(list(folder.path()), serde_json::json!([]));
    assert_eq!(list(&folder.path().join("missing")), serde_json::json!([]));
}

#[test]
fn what_is_no_archive_is_left_out_by_name() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("broken.tar"), vec![7; 2048]).unwrap();
    let output = cryopod(["list", "--dir"]).arg(folder.path()).output().unwrap();
    assert!(output.status.success());
    assert!(stderr(&output).contains("broken.tar"), "{}", stderr(&output));
}
