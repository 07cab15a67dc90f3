//! The client of the API server: what its kubeconfig may say, and what it says about a bad one.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cryopod_kubelet::apiserver::{ApiServer, ReviewError, Reviews as _};
use cryopod_testkit::api_server::{self, NODE_TOKEN, Review};

use crate::cluster::later;
use crate::pki;

/// An error with all its causes.
fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

/// Whether the API server answers a client with this `user` in its kubeconfig.
async fn answered(api: &api_server::ApiServer, folder: &Path, user: &str) -> Result<(), String> {
    let file = api.write_kubeconfig_as(folder, user).unwrap();
    let client = ApiServer::from_kubeconfig(&file).await.map_err(|error| told(&error))?;
    let status = client.token("unknown".to_owned()).await.map_err(|error| told(&error))?;
    assert_eq!(status.authenticated, None);
    Ok(())
}

#[tokio::test]
async fn every_kind_of_credential_is_taken() {
    let api = api_server::ApiServer::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pair = api.client("system:node:n");
    let write = |name: &str, content: &str| {
        std::fs::write(folder.path().join(name), content).unwrap();
    };
    // Without newlines at their ends, and with one behind the token.
    write("crt", pair.certificate.trim_end());
    write("key", pair.key.trim_end());
    write("both", &format!("{}{}", pair.certificate, pair.key));
    write("token", &format!("{NODE_TOKEN}\n"));
    write("wrong", "wrong");
    let (crt, key) = (STANDARD.encode(&pair.certificate), STANDARD.encode(&pair.key));
    for user in [
        "{client-certificate: crt, client-key: key}".to_owned(),
        "{client-certificate: both, client-key: both}".to_owned(),
        format!("{{client-certificate-data: {crt}, client-key-data: {key}}}"),
        format!("{{client-certificate: x, client-certificate-data: {crt}, client-key: key}}"),
        format!("{{token: {NODE_TOKEN}}}"),
        "{tokenFile: token}".to_owned(),
        format!("{{token: {NODE_TOKEN}, tokenFile: absent}}"),
        "{client-certificate: crt, client-key: key, tokenFile: wrong}".to_owned(),
    ] {
        assert_eq!(answered(&api, folder.path(), &user).await, Ok(()), "{user}");
    }
    assert_eq!(api.clients(), ["certificate", "token"]);
    for user in ["{token: wrong}", "{tokenFile: wrong}", "{}"] {
        let error = answered(&api, folder.path(), user).await.unwrap_err();
        assert_eq!(error, "the API server answered 401: Unauthorized", "{user}");
    }
}

#[tokio::test]
async fn a_bad_user_is_told_with_file_and_field() {
    let api = api_server::ApiServer::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pair = api.client("n");
    let other = api.client("m");
    for (name, content) in [
        ("crt", &*pair.certificate),
        ("key", &*pair.key),
        ("other", &*other.key),
        ("empty", ""),
        ("broken", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"),
    ] {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let place = format!("kubeconfig {}/kubeconfig", folder.path().display());
    let absent = format!("cannot read {}/absent: No such file", folder.path().display());
    for (user, says) in [
        ("{client-certificate: absent, client-key: key}", format!("client-certificate: {absent}")),
        ("{client-certificate: crt, client-key: absent}", format!("client-key: {absent}")),
        ("{client-certificate: crt}", "client-certificate: needs client-key beside it".to_owned()),
        ("{client-key: key}", "client-key: needs client-certificate beside it".to_owned()),
        (
            "{client-certificate: empty, client-key: key}",
            "client-certificate: no certificate".to_owned(),
        ),
        (
            "{client-certificate: broken, client-key: key}",
            "client-certificate: not PEM: ".to_owned(),
        ),
        (
            "{client-certificate: crt, client-key: crt}",
            "client-key: no private key in it".to_owned(),
        ),
        (
            "{client-certificate-data: '?', client-key: key}",
            "client-certificate-data: not base64: ".to_owned(),
        ),
        (
            "{client-certificate: crt, client-key-data: '?'}",
            "client-key-data: not base64: ".to_owned(),
        ),
        ("{tokenFile: absent}", format!("tokenFile: {absent}")),
        ("{tokenFile: empty}", "tokenFile: the token is empty".to_owned()),
    ] {
        let error = answered(&api, folder.path(), user).await.unwrap_err();
        let says = format!("{place}: users[node].user.{says}");
        assert!(error.starts_with(&says), "{error}\n{says}");
    }
    let user = "{client-certificate: crt, client-key: other}";
    let error = answered(&api, folder.path(), user).await.unwrap_err();
    assert!(
        error.starts_with("no client for the API server can be made of kubeconfig "),
        "{error}"
    );
}

#[tokio::test]
async fn a_bad_kubeconfig_is_told_with_file_and_field() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    std::fs::write(folder.path().join("empty"), "").unwrap();
    let place = format!("kubeconfig {}", file.display());
    let error = ApiServer::from_kubeconfig(&file).await.unwrap_err();
    assert!(told(&error).starts_with(&format!("{place} cannot be read: ")), "{}", told(&error));

    let context = |context: &str| {
        format!("current-context: c\ncontexts: [{{name: c, context: {context}}}]\n")
    };
    let cluster = |cluster: &str| {
        let context = context("{cluster: k}");
        format!("{context}clusters: [{{name: k, cluster: {cluster}}}]\n")
    };
    for (text, says) in [
        ("a: [".to_owned(), " cannot be read: "),
        (String::new(), ": current-context is not set"),
        ("current-context: c".to_owned(), ": current-context is \"c\", and contexts has no entry"),
        (context("{cluster: ''}"), ": contexts[c].context.cluster is not set"),
        (context("{cluster: k}"), ": contexts[c].context.cluster is \"k\", and clusters has no"),
        (cluster("{}"), ": clusters[k].cluster.server is not set"),
        (cluster("{server: 'a b'}"), ": clusters[k].cluster.server: \"a b\" is not a URL"),
        (
            cluster("{server: 'host:6443'}"),
            ": clusters[k].cluster.server: \"host:6443\" is not a URL",
        ),
        (
            cluster("{server: 'http://a'}"),
            ": clusters[k].cluster.server: \"http://a\" does not begin",
        ),
        (
            cluster("{server: 'https://a', proxy-url: 'http://b'}"),
            ": clusters[k].cluster.proxy-url: proxies are not supported",
        ),
        (
            cluster("{server: 'https://a', certificate-authority: absent}"),
            ": clusters[k].cluster.certificate-authority: cannot read ",
        ),
        (
            cluster("{server: 'https://a', certificate-authority: empty}"),
            ": clusters[k].cluster.certificate-authority: no certificate in it",
        ),
        (
            cluster("{server: 'https://a', certificate-authority-data: '%'}"),
            ": clusters[k].cluster.certificate-authority-data: not base64: ",
        ),
        (
            cluster("{server: 'https://a'}").replace("{cluster: k}", "{cluster: k, user: u}"),
            ": contexts[c].context.user is \"u\", and users has no entry of that name",
        ),
    ] {
        std::fs::write(&file, &text).unwrap();
        let error = told(&ApiServer::from_kubeconfig(&file).await.unwrap_err());
        assert!(error.starts_with(&format!("{place}{says}")), "{error}\n{says}");
    }
}

#[tokio::test]
async fn a_pod_asks_by_its_service_account() {
    let api = api_server::ApiServer::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let open = || ApiServer::from_pod_folder("127.0.0.1", api.address().port(), folder.path());
    let error = told(&open().await.unwrap_err());
    let path = folder.path().display();
    assert!(
        error.starts_with(&format!("the pod's certificate authority: cannot read {path}/ca.crt: ")),
        "{error}"
    );
    std::fs::write(folder.path().join("ca.crt"), api.ca()).unwrap();
    let error = told(&open().await.unwrap_err());
    assert!(error.starts_with("the pod's service account token: cannot read "), "{error}");
    std::fs::write(folder.path().join("token"), NODE_TOKEN).unwrap();
    open().await.unwrap().token("x".to_owned()).await.unwrap();
    assert_eq!(api.clients(), ["token"]);
    // This process is in no pod.
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() {
        let error = ApiServer::from_pod().await.unwrap_err().to_string();
        assert!(error.starts_with("KUBERNETES_SERVICE_HOST is not set: "), "{error}");
    }
}

#[tokio::test]
async fn an_api_server_of_another_authority_is_not_asked() {
    let api = api_server::ApiServer::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = api.write_kubeconfig(folder.path()).unwrap();
    let other = pki::Authority::new("played-cluster-ca").pem();
    std::fs::write(folder.path().join("cluster-ca.crt"), other).unwrap();
    let client = ApiServer::from_kubeconfig(&file).await.unwrap();
    let error = client.token("secret".to_owned()).await.unwrap_err();
    assert!(matches!(error, ReviewError::Connection { reset: false, .. }), "{error:?}");
    assert_eq!(api.count(Review::Token), 0);
}

#[tokio::test]
async fn rotated_credentials_are_in_force_within_a_minute() {
    let api = api_server::ApiServer::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    let rotate = |text: &str| {
        let next = folder.path().join("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &token).unwrap();
    };
    rotate(NODE_TOKEN);
    let file = api.write_kubeconfig_as(folder.path(), "{tokenFile: token}").unwrap();
    let client = ApiServer::from_kubeconfig(&file).await.unwrap();
    let code = async || match client.token("x".to_owned()).await {
        Ok(_) => 201,
        Err(ReviewError::Status { code, .. }) => code,
        Err(error) => panic!("{error:?}"),
    };
    let minute = Duration::from_secs(61);
    assert_eq!(code().await, 201);
    rotate("old");
    assert_eq!(code().await, 201);
    later(minute).await;
    assert_eq!(code().await, 401);
    rotate(NODE_TOKEN);
    later(minute).await;
    assert_eq!(code().await, 201);
    // What cannot be used changes nothing.
    rotate("");
    later(minute).await;
    assert_eq!(code().await, 201);
    std::fs::remove_file(&token).unwrap();
    later(minute).await;
    assert_eq!(code().await, 201);
    // The kubeconfig itself counts, too.
    rotate("old");
    api.write_kubeconfig(folder.path()).unwrap();
    later(minute).await;
    assert_eq!(code().await, 201);
    assert_eq!(api.clients(), ["token", "nobody", "certificate"]);
}
