//! What a start makes, and what it refuses.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use cryopod_kubelet::{Delegates, FeatureGates, Options, Server, StartError};
use tempfile::TempDir;

use crate::pki::Authority;
use crate::stage::{Played, Stage, options};

pub(crate) async fn start(
    change: impl FnOnce(&TempDir, &mut Options),
) -> (TempDir, Result<Server, StartError>) {
    let root = tempfile::tempdir().unwrap();
    let mut options = options(&root, &Authority::new("ca"));
    change(&root, &mut options);
    let server = Server::bind(options, Arc::new(Played::default()), Delegates::default()).await;
    (root, server)
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn without_an_authentication_method_there_is_no_start() {
    let (root, server) = start(|_, options| options.client_ca_file = None).await;
    assert_eq!(server.unwrap_err().to_string(), "no authentication method configured");
    assert!(!std::fs::exists(root.path().join("kubelet")).unwrap());
    let (_root, server) = start(|_, options| {
        options.client_ca_file = None;
        options.anonymous = true;
    })
    .await;
    assert!(server.is_ok());
}

#[tokio::test]
async fn the_folder_of_the_archives_is_private_and_only_made_with_the_gate_on() {
    let (root, server) = start(|_, _| {}).await;
    assert_eq!(mode(&root.path().join("kubelet/checkpoints")), 0o700);
    drop(server);
    let (root, server) = start(|_, options| {
        options.feature_gates = FeatureGates { container_checkpoint: false };
    })
    .await;
    assert!(server.is_ok());
    assert!(!std::fs::exists(root.path().join("kubelet/checkpoints")).unwrap());
    // The mode of one that is there is left.
    let (root, server) = start(|root, _| {
        let folder = root.path().join("kubelet/checkpoints");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    })
    .await;
    assert!(server.is_ok());
    assert_eq!(mode(&root.path().join("kubelet/checkpoints")), 0o755);
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_fatal() {
    let (_root, server) = start(|root, _| {
        std::fs::create_dir(root.path().join("kubelet")).unwrap();
        std::fs::write(root.path().join("kubelet/checkpoints"), "").unwrap();
    })
    .await;
    let error = server.unwrap_err();
    assert!(error.to_string().starts_with("error creating checkpoint directory: "), "{error}");
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let file = |root: &TempDir, name: &str, content: &str| {
        let path = root.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let (_root, server) = start(|root, options| {
        options.client_ca_file = Some(root.path().join("missing"));
    })
    .await;
    assert!(matches!(server, Err(StartError::ClientCa(_))));
    for content in
        ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
    {
        let (_root, server) = start(|root, options| {
            options.client_ca_file = Some(file(root, "ca", content));
        })
        .await;
        let error = server.unwrap_err();
        assert!(error.to_string().starts_with("client CA file /"), "{error}");
    }
    let (_root, server) =
        start(|root, options| options.tls_cert_file = Some(file(root, "crt", ""))).await;
    let text = "--tls-cert-file is given without --tls-private-key-file: TLS needs both";
    assert_eq!(server.unwrap_err().to_string(), text);
    let (_root, server) =
        start(|root, options| options.tls_private_key_file = Some(file(root, "key", ""))).await;
    assert!(matches!(server, Err(StartError::HalfPair { .. })));
    let (_root, server) = start(|root, options| {
        options.tls_cert_file = Some(file(root, "crt", ""));
        options.tls_private_key_file = Some(file(root, "key", ""));
    })
    .await;
    let error = server.unwrap_err();
    assert!(error.to_string().ends_with("/crt holds no certificate"), "{error}");
}

#[tokio::test]
async fn an_address_that_is_taken_is_named_and_nothing_is_made() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (root, server) = start(|_, options| options.bind = address).await;
    assert_eq!(server.unwrap_err().to_string(), format!("cannot listen on {address}"));
    assert!(!std::fs::exists(root.path().join("kubelet")).unwrap());
}

#[tokio::test]
async fn a_restart_keeps_the_self_signed_certificate() {
    let stage = Stage::new().await;
    let root = Arc::clone(&stage.root);
    let again = Stage::with(|options| options.root_dir = root.path().join("kubelet")).await;
    assert_eq!(stage.trusted, again.trusted);
}
