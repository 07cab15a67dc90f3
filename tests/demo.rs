//! `cryopod demo` shows the whole way, and leaves nothing behind.

use crate::harness::{cryopod, stderr, stdout};

#[test]
fn the_demo_keeps_every_promise_it_prints() {
    let temp = tempfile::tempdir().unwrap();
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let output = cryopod(["demo"]).env("TMPDIR", temp.path()).output().unwrap();
    let text = stdout(&output);
    assert!(output.status.success(), "{text}\n{}", stderr(&output));
    for part in [
        "200 OK {\"items\":[\"",
        "(without one: 401 Unauthorized)",
        "checkpoint/inventory.img",
        "In the archive's memory the counter stands at",
        "Restored from the archive, it went on with",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0, "its folder is left");
    assert!(!mounts().contains(temp.path().to_str().unwrap()), "mounts are left");
}
