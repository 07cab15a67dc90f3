//! A server that asks an API server, both on loopback over TLS.

use std::sync::Arc;
use std::time::Duration;

use cryopod_kubelet::apiserver::{ApiServer, Backoff, Reviews};
use cryopod_kubelet::authn::{TokenOptions, Tokens};
use cryopod_kubelet::authz::{Webhook, WebhookOptions};
use cryopod_kubelet::{Delegates, Options};
use cryopod_testkit::api_server::{self, Access, Account};
use serde_json::Value;
use tempfile::TempDir;

use crate::client::{Answer, Client};
use crate::stage::Stage;

pub(crate) const COUNTER: &str = "/checkpoint/default/counter/counter";

/// Kubernetes' steps without its pauses.
pub(crate) const QUICK: Backoff =
    Backoff { first: Duration::from_millis(1), factor: 1.0, jitter: 0.0, steps: 5 };

/// An API server and what asks it.
pub(crate) struct Cluster {
    pub(crate) api: api_server::ApiServer,
    pub(crate) tokens: Tokens,
    pub(crate) webhook: Webhook,
    _folder: TempDir,
}

pub(crate) fn token_options() -> TokenOptions {
    TokenOptions { backoff: QUICK, ..TokenOptions::default() }
}

pub(crate) fn webhook_options() -> WebhookOptions {
    WebhookOptions { backoff: QUICK, ..WebhookOptions::default() }
}

impl Cluster {
    /// Everybody may everything; token `good` is `robot`'s.
    pub(crate) async fn new() -> Self {
        Self::with(token_options(), webhook_options()).await
    }

    pub(crate) async fn with(tokens: TokenOptions, webhook: WebhookOptions) -> Self {
        let api = api_server::ApiServer::start().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = api.write_kubeconfig(folder.path()).unwrap();
        let client = ApiServer::from_kubeconfig(&kubeconfig).await.unwrap();
        let client: Arc<dyn Reviews> = Arc::new(client);
        api.know("good", Account { name: "robot".to_owned(), ..Account::default() });
        api.rule(|_| Access::Allow);
        Self {
            api,
            tokens: Tokens::new(Arc::clone(&client), tokens),
            webhook: Webhook::new(client, webhook),
            _folder: folder,
        }
    }

    pub(crate) fn delegates(&self) -> Delegates {
        Delegates {
            authenticators: vec![Arc::new(self.tokens.clone())],
            authorizer: Some(Arc::new(self.webhook.clone())),
            ..Delegates::default()
        }
    }

    /// A server in front of it.
    pub(crate) async fn stage(&self, change: impl FnOnce(&mut Options)) -> Stage {
        Stage::with_delegates(self.delegates(), change).await
    }
}

/// A POST with a token in its header.
pub(crate) async fn bearing(client: &Client, token: &str) -> Answer {
    let value = format!("Bearer {token}");
    client.send("POST", COUNTER, &[("authorization", &value)]).await
}

/// Lets time pass without waiting; nothing may be under way. Only in single-threaded tests.
pub(crate) async fn later(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Waits for what another task brings about.
pub(crate) async fn until(done: impl Fn() -> bool) {
    while !done() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A field of a review's attributes.
pub(crate) fn attribute<'a>(spec: &'a Value, name: &str) -> &'a str {
    spec["resourceAttributes"][name].as_str().unwrap_or_default()
}
