//! Clients that are slow, silent, many or too loud, and the end of the server.

use std::sync::Arc;
use std::time::Duration;

use cryopod_kubelet::Options;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::client::request;
use crate::stage::{Act, Stage};

const COUNTER: &str = "/checkpoint/default/counter/counter";
const SHORT: Duration = Duration::from_millis(100);

/// Waits until the other side has closed; what it sent before that.
async fn until_closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut sent = Vec::new();
    // Closed with or without a TLS goodbye.
    let _ = stream.read_to_end(&mut sent).await;
    sent
}

#[tokio::test]
async fn a_client_that_never_begins_the_handshake_is_let_go() {
    let stage = Stage::with(|options| options.limits.handshake = SHORT).await;
    let mut socket = TcpStream::connect(stage.address).await.unwrap();
    assert!(until_closed(&mut socket).await.is_empty());
    assert_eq!(stage.client().post(COUNTER).await.status, 200);
}

#[tokio::test]
async fn a_client_that_never_ends_its_first_header_is_let_go() {
    let stage = Stage::with(|options| options.limits.first_request = SHORT).await;
    let client = stage.client();
    let mut stream = client.stream(&["http/1.1"]).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: x\r\nx-slow: ").await.unwrap();
    until_closed(&mut stream).await;
    let mut stream = client.stream(&["h2"]).await.unwrap();
    until_closed(&mut stream).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let stage = Stage::with(|options| options.limits.idle = SHORT).await;
    let client = stage.client();
    let mut stream = client.stream(&["http/1.1"]).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let answer = until_closed(&mut stream).await;
    assert!(answer.starts_with(b"HTTP/1.1 404 Not Found\r\n"));

    for h2 in [false, true] {
        let go = Arc::new(Notify::new());
        stage.runtime.next(Act::Wait(Arc::clone(&go)));
        let waiting = tokio::spawn({
            let client = client.clone();
            async move {
                match h2 {
                    true => client.send_h2("POST", COUNTER, &[]).await,
                    false => client.post(COUNTER).await,
                }
            }
        });
        tokio::time::sleep(5 * SHORT).await;
        go.notify_one();
        assert_eq!(waiting.await.unwrap().status, 200, "h2: {h2}");
    }
}

#[tokio::test]
async fn a_header_beyond_its_limit_is_refused_and_below_it_is_served() {
    let stage = Stage::new().await;
    let client = stage.client();
    let big = "x".repeat(900 << 10);
    assert_eq!(client.send("POST", COUNTER, &[("x-big", &big)]).await.status, 200);
    assert_eq!(client.send_h2("POST", COUNTER, &[("x-big", &big)]).await.status, 200);
    let huge = "x".repeat(1100 << 10);
    let mut sender = client.try_http1().await.unwrap();
    // The server may close before it has read all.
    if let Ok(response) = sender.send_request(request("POST", COUNTER, &[("x-big", &huge)])).await {
        assert_eq!(response.status(), 431);
    }
    let mut sender = client.http2().await;
    let target = format!("https://localhost{COUNTER}");
    if let Ok(response) = sender.send_request(request("POST", &target, &[("x-big", &huge)])).await {
        assert_eq!(response.status(), 431);
    }
    assert_eq!(stage.runtime.calls().len(), 2);
}

#[tokio::test]
async fn beyond_the_limit_connections_wait_for_busy_ones_and_take_the_place_of_idle_ones() {
    let stage = Stage::with(|options: &mut Options| options.limits.connections = 2).await;
    let client = stage.client();
    let go = Arc::new(Notify::new());
    let busy: Vec<_> = ["counter", "second"]
        .map(|container| {
            stage.runtime.next(Act::Wait(Arc::clone(&go)));
            let client = client.clone();
            let path = format!("/checkpoint/default/counter/{container}");
            tokio::spawn(async move { client.post(&path).await.status })
        })
        .into();
    stage.runtime.called(2).await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.post(COUNTER).await.status }
    });
    tokio::time::sleep(SHORT).await;
    assert!(!waiting.is_finished());
    go.notify_waiters();
    for one in busy {
        assert_eq!(one.await.unwrap(), 200);
    }
    assert_eq!(waiting.await.unwrap(), 200);
    let _held = [client.try_http1().await.unwrap(), client.try_http1().await.unwrap()];
    assert_eq!(client.post(COUNTER).await.status, 200);
}

#[tokio::test]
async fn nonsense_on_the_wire_harms_nobody_else() {
    let stage = Stage::with(|options| options.limits.first_request = 10 * SHORT).await;
    let client = stage.client();
    let mut plain = TcpStream::connect(stage.address).await.unwrap();
    plain.write_all(b"POST /checkpoint/a/b/c HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    until_closed(&mut plain).await;
    for nonsense in [
        &b"\0\0\0\0\r\n\r\n"[..],
        b"POST\r\n\r\n",
        b"POST / HTTP/1.1\r\nno colon\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = client.stream(&["http/1.1"]).await.unwrap();
        stream.write_all(nonsense).await.unwrap();
        until_closed(&mut stream).await;
        let mut stream = client.stream(&["h2"]).await.unwrap();
        stream.write_all(nonsense).await.unwrap();
        until_closed(&mut stream).await;
    }
    assert_eq!(client.post(COUNTER).await.status, 200);
}

#[tokio::test]
async fn a_stop_lets_requests_under_way_end() {
    let mut stage = Stage::new().await;
    let go = Arc::new(Notify::new());
    stage.runtime.next(Act::Wait(Arc::clone(&go)));
    let client = stage.client();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.post(COUNTER).await }
    });
    let _idle = client.try_http1().await.unwrap();
    let _idle = client.http2().await;
    stage.runtime.called(1).await;
    stage.stop();
    while TcpStream::connect(stage.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    go.notify_one();
    assert_eq!(waiting.await.unwrap().status, 200);
    stage.server.await.unwrap();
}

#[tokio::test]
async fn a_stop_cancels_what_does_not_end() {
    let mut stage = Stage::with(|options| options.limits.shutdown = SHORT).await;
    stage.runtime.next(Act::Hang);
    let client = stage.client();
    let waiting = tokio::spawn(async move {
        let mut sender = client.try_http1().await.unwrap();
        sender.send_request(request("POST", COUNTER, &[])).await.is_err()
    });
    stage.runtime.called(1).await;
    stage.stop();
    stage.runtime.cancelled(1).await;
    assert!(waiting.await.unwrap());
    stage.server.await.unwrap();
}
