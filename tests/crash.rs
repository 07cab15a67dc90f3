//! `serve` can be killed at any moment: containers live on, and the next server finds them.

use rustix::process::Signal;

use crate::containers::{counting, last_count};
use crate::harness::{Node, wait_for};

#[test]
fn a_restarted_server_finds_its_containers_running() {
    let mut node = Node::start();
    let id = counting(&node, "counter");
    for signal in [Signal::KILL, Signal::TERM] {
        let before = last_count(&node, "counter");
        node.end_server(signal);
        node.restart();
        let all = node.ps();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0]["id"], id.as_str());
        assert_eq!(all[0]["state"], "running");
        wait_for("it to count on", || (last_count(&node, "counter") > before).then_some(()));
        node.ok(["exec", "default/counter/counter", "--", "/bin/true"]);
    }
    node.ok(["stop", "--grace", "0", "default/counter/counter"]);
    assert_eq!(node.ps()[0]["state"], "exited");
}

#[test]
fn a_container_that_ends_while_no_server_runs_is_known_to_have_ended() {
    let mut node = Node::start();
    let end = node.folder().join("end");
    std::fs::create_dir(&end).unwrap();
    let mount = format!("{}:/mnt", end.display());
    let script = "while ! test -e /mnt/now; do sleep 0.05; done; echo bye; exit 7";
    node.ok(["run", "--host-programs", "--name", "c", "--mount", &mount]
        .into_iter()
        .chain(["--", "/bin/sh", "-c", script]));
    node.end_server(Signal::KILL);
    std::fs::write(end.join("now"), "").unwrap();
    wait_for("its last words", || {
        let mut logs = std::fs::read_dir(node.folder().join("logs")).ok()?;
        let log = logs.next()?.ok()?.path().join("c/0.log");
        std::fs::read_to_string(log).ok()?.contains("bye").then_some(())
    });
    node.restart();
    wait_for("its end to be known", || (node.ps()[0]["state"] == "exited").then_some(()));
    assert_eq!(node.ok(["logs", "default/c/c"]), "bye\n");
}
