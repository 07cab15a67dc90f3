//! From what is in force to the judges at the API server.

use std::path::Path;
use std::sync::Arc;

use super::{Authorization, ConfigError, Effective};
use crate::apiserver::{ApiServer, ApiServerError, Reviews};
use crate::authn::{Authenticator, TokenOptions, Tokens};
use crate::authz::{Authorizer, Webhook, WebhookOptions};
use crate::server::Delegates;

/// In place of a kubeconfig's path: the service account of the pod this process runs in.
const IN_CLUSTER: &str = "in-cluster";

/// Why there are no judges.
#[derive(Debug, thiserror::Error)]
pub enum DelegatesError {
    /// As [`load`](super::load) has already found it.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no client for the API server.
    #[error(transparent)]
    ApiServer(#[from] ApiServerError),
}

impl Effective {
    /// The judges at the API server: TokenReview if tokens are reviewed, SubjectAccessReview if
    /// the mode is Webhook. Nothing is asked yet.
    ///
    /// # Errors
    /// [`DelegatesError`]: the kubeconfig cannot be used.
    pub async fn delegates(&self) -> Result<Delegates, DelegatesError> {
        let webhook = self.authorization()? == Authorization::Webhook;
        let mut delegates = Delegates::default();
        if !webhook && !self.token_webhook.value {
            return Ok(delegates);
        }
        let Some(path) = &self.kubeconfig.value else {
            return Err(match webhook {
                true => {
                    ConfigError::AccessReviewer { origin: self.authorization_mode.origin.clone() }
                }
                false => ConfigError::TokenReviewer { origin: self.token_webhook.origin.clone() },
            }
            .into());
        };
        let reviews: Arc<dyn Reviews> = Arc::new(api_server(path).await?);
        if self.token_webhook.value {
            let options = TokenOptions { ttl: self.token_cache_ttl.value, ..Default::default() };
            let tokens = Tokens::new(Arc::clone(&reviews), options);
            delegates.authenticators.push(Arc::new(tokens) as Arc<dyn Authenticator>);
        }
        if webhook {
            let options = WebhookOptions {
                allowed_ttl: self.authorized_ttl.value,
                denied_ttl: self.unauthorized_ttl.value,
                ..Default::default()
            };
            let authorizer = Webhook::new(reviews, options);
            delegates.authorizer = Some(Arc::new(authorizer) as Arc<dyn Authorizer>);
        }
        Ok(delegates)
    }
}

/// The API server that a kubeconfig, or the word for a pod's service account, names.
pub(super) async fn api_server(path: &Path) -> Result<ApiServer, ApiServerError> {
    match path == Path::new(IN_CLUSTER) {
        true => ApiServer::from_pod().await,
        false => ApiServer::from_kubeconfig(path).await,
    }
}
