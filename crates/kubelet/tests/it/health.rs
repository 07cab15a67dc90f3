//! Health pages, behind the door and on the plain listener.

use cryopod_kubelet::runtime::{Code, RpcError};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;

use crate::stage::Stage;
use crate::statuses::assert_whole;

const TEXT: (&str, &str) = ("content-type", "text/plain; charset=utf-8");
const NOSNIFF: (&str, &str) = ("x-content-type-options", "nosniff");

/// One plain request to the health listener.
async fn plain(stage: &Stage, method: &str, path: &str) -> (u16, String) {
    let socket = tokio::net::TcpStream::connect(stage.healthz.unwrap()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::builder().method(method).uri(path).header("host", "localhost");
    let request = request.body(Full::<bytes::Bytes>::default()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn pages_are_behind_the_door_and_in_kubernetes_words() {
    let stage = Stage::new().await;
    for path in ["/healthz", "/healthz/ping", "/readyz", "/readyz/runtime"] {
        let answer = stage.stranger().send("GET", path, &[]).await;
        assert_whole(&answer, 401, &[TEXT], "Unauthorized", path);
    }
    let client = stage.client();
    let rows = [
        ("/healthz", &[TEXT, NOSNIFF] as &[_], "ok"),
        ("/healthz?verbose", &[TEXT, NOSNIFF], "[+]ping ok\nhealthz check passed\n"),
        ("/healthz/ping", &[TEXT], "ok"),
        ("/readyz", &[TEXT, NOSNIFF], "ok"),
        (
            "/readyz?verbose",
            &[TEXT, NOSNIFF],
            "[+]ping ok\n[+]runtime ok\n[+]checkpoints ok\n[+]certificate ok\n\
             readyz check passed\n",
        ),
        ("/readyz/runtime", &[TEXT], "ok"),
        ("/readyz/checkpoints", &[TEXT], "ok"),
        ("/readyz/certificate", &[TEXT], "ok"),
    ];
    for (path, headers, body) in rows {
        assert_whole(&client.send("GET", path, &[]).await, 200, headers, body, path);
        assert_whole(&client.send_h2("GET", path, &[]).await, 200, headers, body, path);
    }
    for path in ["/healthz/", "/healthz/log", "/readyz/nothing", "/livez"] {
        let answer = stage.stranger().send("GET", path, &[]).await;
        assert_whole(&answer, 404, &[TEXT, NOSNIFF], "404 page not found\n", path);
    }
}

#[tokio::test]
async fn a_runtime_that_is_gone_makes_it_unready_and_not_unhealthy() {
    let stage = Stage::new().await;
    stage.runtime.fail_lists(RpcError { code: Code::Unavailable, message: "gone".into() });
    let client = stage.client();
    let body = "[+]ping ok\n[-]runtime failed: reason withheld\n[+]checkpoints ok\n\
                [+]certificate ok\nreadyz check failed\n";
    for path in ["/readyz", "/readyz?verbose"] {
        let answer = client.send("GET", path, &[]).await;
        assert_whole(&answer, 500, &[TEXT, NOSNIFF], body, path);
    }
    let answer = client.send("GET", "/readyz?exclude=runtime", &[]).await;
    assert_whole(&answer, 200, &[TEXT, NOSNIFF], "ok", "excluded");
    let answer = client.send("GET", "/readyz/runtime", &[]).await;
    let reason = "internal server error: the container runtime: \
                  rpc error: code = Unavailable desc = gone\n";
    assert_whole(&answer, 500, &[TEXT, NOSNIFF], reason, "the check's own page");
    let answer = client.send("GET", "/healthz", &[]).await;
    assert_whole(&answer, 200, &[TEXT, NOSNIFF], "ok", "healthz");
}

#[tokio::test]
async fn a_folder_that_is_gone_makes_it_unready() {
    let stage = Stage::new().await;
    std::fs::remove_dir(stage.checkpoints()).unwrap();
    let answer = stage.client().send("GET", "/readyz/checkpoints", &[]).await;
    assert_eq!(answer.status, 500);
    let begin = "internal server error: cannot write to ";
    assert!(answer.body.starts_with(begin), "{}", answer.body);
    // Where there is no checkpoint route, nobody needs the folder.
    let stage = Stage::with(|options| options.debugging_handlers = false).await;
    std::fs::remove_dir(stage.checkpoints()).unwrap();
    assert_eq!(stage.client().send("GET", "/readyz", &[]).await.status, 200);
}

#[tokio::test]
async fn the_plain_listener_has_health_and_nothing_else() {
    let stage = Stage::with(|options| {
        options.healthz_bind = Some(([127, 0, 0, 1], 0).into());
    })
    .await;
    for (method, path, status, body) in [
        ("GET", "/healthz", 200, "ok"),
        ("GET", "/healthz?verbose", 200, "[+]ping ok\nhealthz check passed\n"),
        ("GET", "/healthz/ping", 200, "ok"),
        ("GET", "/readyz", 200, "ok"),
        ("HEAD", "/healthz", 200, ""),
        ("GET", "/metrics", 404, "404 page not found\n"),
        ("POST", "/checkpoint/default/counter/counter", 404, "404 page not found\n"),
        ("POST", "/checkpoint", 404, "404 page not found\n"),
        ("GET", "/", 404, "404 page not found\n"),
        ("GET", "/%zz", 400, "400 Bad Request"),
    ] {
        let answer = plain(&stage, method, path).await;
        assert_eq!((answer.0, &*answer.1), (status, body), "{method} {path}");
    }
    assert!(stage.runtime.calls().is_empty());
    // Without the option there is none.
    assert_eq!(Stage::new().await.healthz, None);
}
