//! Clients that mean harm: the server stays up, and others are served in the meantime.

use std::time::Duration;

use rcgen::ExtendedKeyUsagePurpose;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::Forged;
use crate::frames::{
    CONTINUATION, END_HEADERS, END_STREAM, End, HEADERS, Hand, PING, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, frame, literal, post,
};
use crate::pki::{Authority, Leaf};
use crate::stage::Stage;

const COUNTER: &str = "/checkpoint/default/counter/counter";
const SHORT: Duration = Duration::from_millis(100);

/// Another caller, who means no harm, is served.
async fn others_are_served(stage: &Stage) {
    assert_eq!(stage.client().post(COUNTER).await.status, 200);
    assert_eq!(stage.client().send_h2("POST", COUNTER, &[]).await.status, 200);
}

/// Sends a text byte by byte, again and again, until the server has had enough.
async fn drip(stream: &mut (impl tokio::io::AsyncWrite + Unpin), text: &[u8]) {
    for byte in text.iter().cycle() {
        if stream.write_all(&[*byte]).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        tokio::time::sleep(SHORT / 20).await;
    }
}

#[tokio::test]
async fn a_header_that_comes_byte_by_byte_ends_with_its_time_however_busy_it_looks() {
    let stage = Stage::with(|options| {
        options.limits.first_request = SHORT;
        options.limits.idle = SHORT;
    })
    .await;
    for protocol in ["http/1.1", "h2"] {
        // Strangers, and callers with a good certificate.
        for client in [stage.stranger(), stage.client()] {
            let mut stream = client.stream(&[protocol]).await.unwrap();
            let start: &[u8] = match protocol {
                "h2" => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                _ => b"POST / HTTP/1.1\r\nhost: x\r\nx-slow: ",
            };
            stream.write_all(start).await.unwrap();
            match protocol {
                // Pings look busy, and are no request.
                "h2" => drip(&mut stream, &frame(PING, 0, 0, &[7; 8])).await,
                _ => drip(&mut stream, b"x").await,
            }
            others_are_served(&stage).await;
        }
    }
    // The second header of a connection gets no more time than the first.
    let mut stream = stage.client().stream(&["http/1.1"]).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nx: ").await.unwrap();
    drip(&mut stream, b"x").await;
}

#[tokio::test]
async fn half_a_handshake_ends_with_its_time() {
    let stage = Stage::with(|options| options.limits.handshake = SHORT).await;
    // A record of a ClientHello that promises 512 bytes and holds none of them; one byte of that;
    // and a record that is fed to the end of time.
    for sent in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"\x16"] {
        let mut socket = TcpStream::connect(stage.address).await.unwrap();
        socket.write_all(sent).await.unwrap();
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
    }
    let mut socket = TcpStream::connect(stage.address).await.unwrap();
    socket.write_all(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc").await.unwrap();
    drip(&mut socket, b"\0").await;
    others_are_served(&stage).await;
}

#[tokio::test]
async fn a_body_that_never_comes_is_not_waited_for() {
    let stage = Stage::new().await;
    for (client, status) in [(stage.client(), "200 OK"), (stage.stranger(), "401 Unauthorized")] {
        for length in ["content-length: 1000000000000", "transfer-encoding: chunked"] {
            let mut stream = client.stream(&["http/1.1"]).await.unwrap();
            let request = format!("POST {COUNTER} HTTP/1.1\r\nhost: x\r\n{length}\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = [0; 512];
            let count = stream.read(&mut answer).await.unwrap();
            let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
        }
    }
}

#[tokio::test]
async fn thousands_of_headers_are_refused() {
    let stage = Stage::new().await;
    let names: Vec<String> = (0..5_000).map(|number| format!("x-{number}")).collect();
    let mut stream = stage.client().stream(&["http/1.1"]).await.unwrap();
    let mut request = format!("POST {COUNTER} HTTP/1.1\r\nhost: x\r\n");
    names.iter().for_each(|name| request.push_str(&format!("{name}: y\r\n")));
    request.push_str("\r\n");
    // The server may close before it has read all.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");

    // More names than a map of headers can hold, below the limit in bytes.
    let mut block = post(COUNTER);
    for number in 0..29_000_u32 {
        let digits = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
        let name: String =
            (0..5).map(|at| digits[(number / 12_u32.pow(at) % 12) as usize]).collect();
        literal(&name, b"", &mut block);
    }
    let mut hand = Hand::shake(&stage.client()).await;
    hand.listen();
    let mut pieces = block.chunks(16 << 10).map(<[u8]>::to_vec).collect::<Vec<_>>().into_iter();
    let mut frames = vec![frame(HEADERS, END_STREAM, 1, &pieces.next().unwrap())];
    frames.extend(pieces.map(|piece| frame(CONTINUATION, 0, 1, &piece)));
    frames.push(frame(CONTINUATION, END_HEADERS, 1, b""));
    hand.flood(frames).await;
    others_are_served(&stage).await;
    // Those of the others, and nothing of the flood.
    assert_eq!(stage.runtime.calls().len(), 2);
}

#[tokio::test]
async fn no_path_leads_out_of_the_folder_of_archives() {
    let stage = Stage::new().await;
    let client = stage.client();
    for path in [
        "/checkpoint/default/counter/%2e%2e",
        "/checkpoint/default/..%2f..%2fetc/counter",
        "/checkpoint/default/counter/..%2f..%2f..%2fetc%2fpasswd",
        "/checkpoint/..%2f..%2f/counter/counter",
        "/checkpoint/default/counter/../../../etc/passwd",
        "/checkpoint/default/counter/counter%00",
        "/checkpoint/default/counter/counter%00.tar",
        "/checkpoint/%00/%00/%00",
        "/checkpoint/default/counter/%c0%ae%c0%ae",
        "/checkpoint/default/counter/%ff%fe",
        "/checkpoint/default/counter/%252e%252e",
        "/checkpoint/default/counter/counter%0d%0ax-evil:%201",
        "/checkpoint/default/counter/%",
        "/checkpoint/default/counter/%zz",
        "/%63heckpoint/default/counter/nobody",
        "/checkpoint/./default/counter/counter",
        "//checkpoint/default/counter/counter",
        "/checkpoint/default/counter/counter/..",
        "/checkpoint/default/counter/counter;x=1",
        "/checkpoint/default/counter/counter\\..",
    ] {
        for answer in [client.post(path).await, client.send_h2("POST", path, &[]).await] {
            let status = answer.status.as_u16();
            assert!([301, 307, 400, 404].contains(&status), "{path}: {status}");
            assert!(answer.header("x-evil").is_none(), "{path}");
        }
    }
    let long = format!("/checkpoint/default/counter/{}", "a".repeat(60_000));
    assert!(client.post(&long).await.status.is_client_error());
    assert!(stage.runtime.calls().is_empty());
    assert_eq!(std::fs::read_dir(stage.checkpoints()).unwrap().count(), 0);
}

#[tokio::test]
async fn nul_bytes_and_smuggled_lines_end_their_connection() {
    let stage = Stage::new().await;
    for request in [
        &b"POST /checkpoint/default/counter/coun\0ter HTTP/1.1\r\nhost: x\r\n\r\n"[..],
        b"POST / HTTP/1.1\r\nhost: x\0\r\n\r\n",
        b"POST / HTTP/1.1\r\nho\0st: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, nonsense\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\n : y\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\nx : y\r\n\r\n",
    ] {
        let mut stream = stage.client().stream(&["http/1.1"]).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        let shown = String::from_utf8_lossy(request);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{shown}: {answer}");
    }
    others_are_served(&stage).await;
    assert_eq!(stage.runtime.calls().len(), 2);
}

#[tokio::test]
async fn a_flood_of_connections_that_do_nothing_keeps_nobody_out() {
    let stage = Stage::with(|options| options.limits.connections = 8).await;
    let client = stage.client();
    let mut held = Vec::new();
    for round in 0..10 {
        for _ in 0..20 {
            // Without a handshake, with one, and with a request that is never ended.
            held.push(TcpStream::connect(stage.address).await.unwrap());
        }
        let silent = client.stream(&["http/1.1"]).await;
        let mut begun = client.stream(&["http/1.1"]).await.unwrap();
        let _ = begun.write_all(b"POST / HTTP/1.1\r\nhost: ").await;
        assert_eq!(client.post(COUNTER).await.status, 200, "round {round}");
        drop((silent, begun));
    }
}

#[tokio::test]
async fn a_rapid_reset_ends_and_others_are_served_meanwhile() {
    for known in [false, true] {
        let stage = Stage::new().await;
        let client = if known { stage.client() } else { stage.stranger() };
        let mut hand = Hand::shake(&client).await;
        hand.listen();
        let flood = tokio::spawn(async move {
            let block = post(COUNTER);
            let pieces = (0..50_000_u32).map(|number| {
                let stream = 2 * number + 1;
                let mut piece = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
                piece.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
                piece
            });
            hand.flood(pieces).await
        });
        others_are_served(&stage).await;
        // Thousands of streams that were never wanted are no client's right.
        assert_eq!(flood.await.unwrap(), End::Closed, "known: {known}");
        others_are_served(&stage).await;
    }
}

#[tokio::test]
async fn floods_of_control_frames_are_borne() {
    let stage = Stage::new().await;
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]);
    let ping = frame(PING, 0, 0, &[7; 8]);
    let window = frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes());
    let reset = frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes());
    for (name, piece) in
        [("settings", settings), ("ping", ping), ("window", window), ("reset", reset)]
    {
        for listens in [false, true] {
            let mut hand = Hand::shake(&stage.stranger()).await;
            if listens {
                hand.listen();
            }
            let many: Vec<u8> = piece.iter().copied().cycle().take(piece.len() * 100).collect();
            let flood =
                tokio::spawn(async move { hand.flood((0..1_000).map(|_| many.clone())).await });
            others_are_served(&stage).await;
            // Taken, refused or stopped: all three are well, as long as the server lives.
            let end = flood.await.unwrap();
            others_are_served(&stage).await;
            assert!(name != "reset" || end == End::Closed, "{name}: {end:?}");
        }
    }
}

#[tokio::test]
async fn a_header_block_without_an_end_is_refused() {
    let stage = Stage::new().await;
    let mut hand = Hand::shake(&stage.stranger()).await;
    hand.listen();
    let mut piece = Vec::new();
    literal("x-more", &[b'y'; 1000], &mut piece);
    let start = frame(HEADERS, END_STREAM, 1, &post(COUNTER));
    let more = (0..100_000).map(|_| frame(CONTINUATION, 0, 1, &piece));
    assert_eq!(hand.flood([start].into_iter().chain(more)).await, End::Closed);
    others_are_served(&stage).await;
}

#[tokio::test]
async fn a_bomb_in_the_header_table_is_refused() {
    let stage = Stage::new().await;
    let mut hand = Hand::shake(&stage.client()).await;
    hand.listen();
    // A value of nearly the table's 4 KiB, kept by the decoder, then named again and again.
    let mut block = post(COUNTER);
    let mut kept = Vec::new();
    literal("x-bomb", &[b'y'; 3900], &mut kept);
    kept[0] = 0x40;
    block.extend(kept);
    block.extend([0xbe; 8_000]);
    hand.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
    others_are_served(&stage).await;
    assert_eq!(stage.runtime.calls().len(), 2);
}

#[tokio::test]
async fn certificates_that_are_wrong_in_any_way_open_nothing() {
    let stage = Stage::new().await;
    let ca = &stage.authority;
    let leaf = || Leaf::client(&["alice"], &["system:masters"]);
    let mut endless = ca.client("alice");
    endless.chain.extend((0..60).map(|number| ca.intermediate(&format!("i{number}")).der()));
    let mut circle = ca.client("alice");
    let (one, two) = (Authority::new("client-ca"), Authority::new("client-ca"));
    circle.chain = vec![one.client("alice").chain.remove(0), two.der(), one.der(), two.der()];
    let circle = Forged::new(circle.chain, one.client("alice").key());
    for (case, identity) in [
        ("another CA", Authority::new("other").issue(&leaf())),
        ("expired", ca.issue(&Leaf { expired: true, ..leaf() })),
        (
            "for servers",
            ca.issue(&Leaf { usages: vec![ExtendedKeyUsagePurpose::ServerAuth], ..leaf() }),
        ),
        (
            "for signing code",
            ca.issue(&Leaf { usages: vec![ExtendedKeyUsagePurpose::CodeSigning], ..leaf() }),
        ),
        ("a CA itself", ca.intermediate("alice").identity()),
        ("without a name", ca.issue(&Leaf::client(&[], &["system:masters"]))),
    ] {
        let answer = stage.client_as(&identity).post(COUNTER).await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (401, "Unauthorized"), "{case}");
    }
    assert!(stage.runtime.calls().is_empty());
    // What the chain drags along does not matter, be it ever so much.
    assert_eq!(stage.client_as(&endless).post(COUNTER).await.status, 200);
    // No certificates at all: the handshake or the door refuses them.
    let key = || ca.client("alice").key();
    let garbage = |bytes: Vec<u8>| Forged::new(vec![CertificateDer::from(bytes)], key());
    let truncated = {
        let whole = ca.client("alice").chain.remove(0);
        whole[..whole.len() / 2].to_vec()
    };
    let nested = b"\x30\x84\xff\xff\xff\xff".repeat(2_000);
    let huge = [&[0x30, 0x83, 0, 0xea, 0x60][..], &[0; 60_000]].concat();
    for (case, forged) in [
        ("a circle of issuers", circle),
        ("noise", garbage(vec![0xa5; 1000])),
        ("nothing", garbage(Vec::new())),
        ("half of one", garbage(truncated)),
        ("endless lengths", garbage(nested)),
        ("60 KB of nothing", garbage(huge)),
        ("a chain beyond all measure", {
            let mut chain = ca.client("alice").chain;
            chain.extend(std::iter::repeat_n(ca.der(), 500));
            Forged::new(chain, key())
        }),
    ] {
        let answer = forged.post(stage.address, stage.trusted.clone(), COUNTER).await;
        assert!(answer.is_err() || answer.unwrap().status == 401, "{case}");
        others_are_served(&stage).await;
    }
}
