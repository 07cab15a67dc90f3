//! The serving certificate and the handshake.

use std::time::Duration;

use http::Version;
use rustls_pki_types::CertificateDer;

use crate::client::Client;
use crate::pki::Authority;
use crate::stage::Stage;

const COUNTER: &str = "/checkpoint/default/counter/counter";

async fn served(client: &Client) -> CertificateDer<'static> {
    let stream = client.stream(&[]).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

#[tokio::test]
async fn the_self_signed_certificate_is_for_the_node_localhost_and_loopback() {
    let stage = Stage::new().await;
    let (_, parsed) = x509_parser::parse_x509_certificate(&stage.trusted).unwrap();
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    let names: Vec<String> = names.value.general_names.iter().map(ToString::to_string).collect();
    assert_eq!(
        names,
        ["DNSName(node-1)", "DNSName(localhost)", "IPAddress(7f:00:00:01)"].map(String::from),
        "{names:?}"
    );
    // And a client that trusts just this one is served, by this name.
    assert_eq!(stage.client().post(COUNTER).await.status, 200);
}

#[tokio::test]
async fn the_protocol_is_chosen_by_alpn_and_http_1_1_without_it() {
    let stage = Stage::new().await;
    let client = stage.client();
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1", "h2"], Some(b"h2")),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let stream = client.stream(offered).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen, "{offered:?}");
    }
    assert!(client.stream(&["spdy/3"]).await.is_err());
    assert_eq!(client.send("POST", COUNTER, &[]).await.version, Version::HTTP_11);
    assert_eq!(client.send_h2("POST", COUNTER, &[]).await.version, Version::HTTP_2);
}

#[tokio::test]
async fn given_files_are_served_and_served_anew_when_they_change() {
    let serving = Authority::new("serving-ca");
    let folder = tempfile::tempdir().unwrap();
    let [crt, key] = ["tls.crt", "tls.key"].map(|name| folder.path().join(name));
    let first = serving.server();
    std::fs::write(&crt, &first.chain_pem).unwrap();
    std::fs::write(&key, &first.key_pem).unwrap();
    let stage = Stage::with(|options| {
        options.tls_cert_file = Some(crt.clone());
        options.tls_private_key_file = Some(key.clone());
        options.limits.reload = Duration::from_millis(20);
    })
    .await;
    assert!(!std::fs::exists(stage.root.path().join("kubelet/pki")).unwrap());
    let client = Client::new(stage.address, serving.der(), Some(&stage.authority.client("alice")));
    assert_eq!(served(&client).await, first.chain[0]);
    assert_eq!(client.post(COUNTER).await.status, 200);

    let second = serving.server();
    std::fs::write(&crt, &second.chain_pem).unwrap();
    // Half of a change is not served.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(served(&client).await, first.chain[0]);
    std::fs::write(&key, &second.key_pem).unwrap();
    while served(&client).await != second.chain[0] {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(client.post(COUNTER).await.status, 200);
}

#[tokio::test]
async fn a_certificate_without_its_key_does_not_get_through_the_handshake() {
    let stage = Stage::new().await;
    let stolen = stage.authority.client("alice");
    let own = stage.authority.client("mallory");
    let forged = crate::client::Forged::new(stolen.chain, own.key());
    assert!(forged.post(stage.address, stage.trusted.clone(), COUNTER).await.is_err());
    assert!(stage.runtime.calls().is_empty());
}

#[tokio::test]
async fn no_certificate_is_asked_for_without_a_client_ca() {
    let stage = Stage::with(|options| {
        options.client_ca_file = None;
        options.anonymous = true;
    })
    .await;
    // A certificate that would be bad is not even sent.
    let foreign = Authority::new("x").client("mallory");
    assert_eq!(stage.client_as(&foreign).post(COUNTER).await.status, 200);
}
