//! What a kubelet does all the time goes on while checkpoints are taken.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cryopod_cri::{Client, v1};

use crate::containers::{counting, last_count};
use crate::door::Door;
use crate::harness::wait_for;

/// Every 100 ms until `done`: the answers of a command, and of an exec probe with its time limit.
async fn probe(client: Client, id: String, done: &AtomicBool) -> u32 {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let mut count = 0;
    while !done.load(Ordering::Relaxed) {
        let said = words(&["/bin/sh", "-c", &format!("echo {count}; exit 3")]);
        let answer = client.exec_sync(&id, said, Duration::from_secs(60)).await.unwrap();
        assert_eq!(answer.stdout, format!("{count}\n").as_bytes());
        assert_eq!((answer.stderr.as_slice(), answer.exit_code), (&b""[..], 3));
        let healthy = words(&["/bin/test", "-d", "/proc/1"]);
        let answer = client.exec_sync(&id, healthy, Duration::from_secs(10)).await.unwrap();
        assert_eq!(answer.exit_code, 0);
        count += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commands_and_probes_go_on_without_an_error_through_twenty_checkpoints() {
    let door = Door::open(&[]);
    let id = counting(&door.node, "counter");
    let client = Client::connect(door.node.socket().to_str().unwrap()).await.unwrap();
    static DONE: AtomicBool = AtomicBool::new(false);
    let probing = tokio::spawn(probe(client.clone(), id.clone(), &DONE));
    for round in 0..20 {
        let answer = door.post("/checkpoint/default/counter/counter").await;
        assert_eq!(answer.status().as_u16(), 200, "checkpoint {round}: {}", answer.body());
        let items: serde_json::Value = serde_json::from_str(answer.body()).unwrap();
        std::fs::remove_file(items["items"][0].as_str().unwrap()).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    DONE.store(true, Ordering::Relaxed);
    assert!(probing.await.unwrap() > 10);
    // And the container itself missed nothing.
    let at = last_count(&door.node, "counter");
    wait_for("it to count on", || (last_count(&door.node, "counter") > at + 5).then_some(()));
    let told = door.node.ok(["logs", "default/counter/counter"]);
    assert!(told.lines().zip(1..).all(|(line, number)| line == number.to_string()), "{told}");
    let status = client.container_status(&id, false).await.unwrap().status.unwrap();
    assert_eq!(status.state(), v1::ContainerState::ContainerRunning);
}
