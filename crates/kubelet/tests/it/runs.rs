//! Requests that meet: one container at a time, hang-ups, one path each.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::client::{read, request};
use crate::stage::{Act, Stage};

const COUNTER: &str = "/checkpoint/default/counter/counter";

#[tokio::test]
async fn two_requests_for_one_container_run_one_after_the_other() {
    let stage = Stage::new().await;
    let go = Arc::new(Notify::new());
    stage.runtime.next(Act::Wait(Arc::clone(&go)));
    let client = stage.client();
    let first = tokio::spawn({
        let client = client.clone();
        async move { client.post(COUNTER).await }
    });
    stage.runtime.called(1).await;
    let second = tokio::spawn({
        let client = client.clone();
        async move { client.post(COUNTER).await }
    });
    // Another container does not wait: when it is done, the second request had every chance.
    let other = client.post("/checkpoint/default/counter/second").await;
    assert_eq!(other.status, 200);
    assert_eq!(stage.runtime.calls().len(), 2);
    go.notify_one();
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (200, 200));
    assert_ne!(first.body, second.body);
    assert_eq!(stage.runtime.calls().len(), 3);
    assert_eq!(stage.runtime.most_running(), 2);
}

#[tokio::test]
async fn who_waited_looks_for_the_container_anew() {
    let stage = Stage::new().await;
    let go = Arc::new(Notify::new());
    stage.runtime.next(Act::Wait(Arc::clone(&go)));
    let client = stage.client();
    let mut sender = client.http2().await;
    let target = format!("https://localhost{COUNTER}");
    let first = tokio::spawn(sender.send_request(request("POST", &target, &[])));
    stage.runtime.called(1).await;
    let second = tokio::spawn(sender.send_request(request("POST", &target, &[])));
    // Streams of one connection begin in order: once this is answered, the second waits.
    let third = sender.send_request(request(
        "POST",
        "https://localhost/checkpoint/default/counter/second",
        &[],
    ));
    assert_eq!(third.await.unwrap().status(), 200);
    stage.runtime.stop_container("counter");
    go.notify_one();
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    let second = read(second.await.unwrap().unwrap()).await;
    assert_eq!(
        (second.status.as_u16(), &*second.body),
        (500, "checkpointing of default/counter/counter failed (container counter not found)")
    );
}

#[tokio::test]
async fn a_client_that_hangs_up_cancels_the_call_and_lets_the_next_on() {
    let stage = Stage::new().await;
    let client = stage.client();
    let with_body = |length| {
        let mut request = request("POST", COUNTER, &[]);
        *request.body_mut() = bytes::Bytes::from(vec![b'x'; length]).into();
        request
    };
    for (count, length) in [(1, 0), (2, 100_000)] {
        stage.runtime.next(Act::Hang);
        let mut sender = client.try_http1().await.unwrap();
        let pending = tokio::spawn(async move { sender.send_request(with_body(length)).await });
        stage.runtime.called(count).await;
        pending.abort();
        stage.runtime.cancelled(count).await;
    }
    // A reset stream on a connection that stays.
    stage.runtime.next(Act::Hang);
    let mut sender = client.http2().await;
    let target = format!("https://localhost{COUNTER}");
    let pending = tokio::spawn(sender.send_request(request("POST", &target, &[])));
    stage.runtime.called(3).await;
    pending.abort();
    stage.runtime.cancelled(3).await;
    assert_eq!(sender.send_request(request("POST", &target, &[])).await.unwrap().status(), 200);
}

#[tokio::test]
async fn who_hangs_up_while_waiting_leaves_the_line() {
    let stage = Stage::new().await;
    let go = Arc::new(Notify::new());
    stage.runtime.next(Act::Wait(Arc::clone(&go)));
    let client = stage.client();
    let target = format!("https://localhost{COUNTER}");
    let mut sender = client.http2().await;
    let first = tokio::spawn(sender.send_request(request("POST", &target, &[])));
    stage.runtime.called(1).await;
    let second = tokio::spawn(sender.send_request(request("POST", &target, &[])));
    let other = "https://localhost/checkpoint/default/counter/second";
    assert_eq!(sender.send_request(request("POST", other, &[])).await.unwrap().status(), 200);
    second.abort();
    let _ = second.await;
    // Frames of one connection are seen in order: once this is answered, the reset was.
    assert_eq!(sender.send_request(request("POST", other, &[])).await.unwrap().status(), 200);
    go.notify_one();
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    assert_eq!(client.post(COUNTER).await.status, 200);
    assert_eq!(stage.runtime.calls().len(), 4);
}

#[tokio::test]
async fn every_request_gets_a_file_of_its_own() {
    let stage = Stage::new().await;
    let client = stage.client();
    for _ in 0..12 {
        assert_eq!(client.post(COUNTER).await.status, 200);
    }
    let paths: HashSet<String> =
        stage.runtime.calls().into_iter().map(|call| call.location).collect();
    assert_eq!(paths.len(), 12);
    assert_eq!(std::fs::read_dir(stage.checkpoints()).unwrap().count(), 12);
}
