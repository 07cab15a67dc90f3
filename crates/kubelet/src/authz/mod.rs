//! May they: the attributes of a request and who decides on them.
//!
//! The decision is on `create nodes/checkpoint` of this node, as in the kubelet; where it is asked
//! for, a second one is on `create pods/checkpoint` of the pod ([`pod_attributes`]), which the
//! kubelet lacks. [`Webhook`] has the API server decide.
//!
//! Without a webhook, [`ClientCertificates`] decides: whoever holds a client certificate of the
//! client CA may, and a caller without credentials may where anonymous access was asked for;
//! nobody else.

mod attributes;
mod cure;
mod webhook;

use crate::authn::{Credential, User};
use crate::{BoxError, BoxFuture};

pub use attributes::{NodeAttributes, RequestAttributes, is_subpath, pod_attributes};
pub use webhook::{Webhook, WebhookOptions};

/// What is asked for, in the API server's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Who asks.
    pub user: User,
    /// `create` for POST, and so on; empty for a method without a verb.
    pub verb: &'static str,
    /// Always empty: the core group.
    pub api_group: &'static str,
    /// Always `v1`.
    pub api_version: &'static str,
    /// `nodes`, or `pods` in the second check.
    pub resource: &'static str,
    /// `checkpoint`, `metrics`, `healthz`, `proxy`, …; in old Kubernetes versions `proxy` stood for
    /// the first.
    pub subresource: &'static str,
    /// The node's name, or the pod's.
    pub name: String,
    /// The pod's; empty for nodes, which have none.
    pub namespace: String,
    /// Always true: not a bare URL.
    pub resource_request: bool,
    /// The decoded path of the request.
    pub path: String,
}

/// An authorizer's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// They may.
    Allow,
    /// They may not.
    Deny,
    /// This authorizer does not know them; counts as a denial at the end.
    NoOpinion,
}

/// Decides on one set of attributes.
pub trait Authorizer: Send + Sync {
    /// An error is answered with 500: neither allowed nor denied.
    fn authorize<'a>(
        &'a self,
        attributes: &'a Attributes,
    ) -> BoxFuture<'a, Result<Decision, BoxError>>;

    /// What would make a refused request an allowed one, for the log: such as commands to copy.
    fn cure(&self, _attributes: &Attributes) -> Option<String> {
        None
    }
}

/// Everybody who came through authentication may do everything.
#[derive(Clone, Copy, Debug)]
pub struct AlwaysAllow;

impl Authorizer for AlwaysAllow {
    fn authorize<'a>(
        &'a self,
        _attributes: &'a Attributes,
    ) -> BoxFuture<'a, Result<Decision, BoxError>> {
        Box::pin(async { Ok(Decision::Allow) })
    }
}

/// Holders of a client certificate may; anonymous callers may if `anonymous`.
#[derive(Clone, Copy, Debug)]
pub struct ClientCertificates {
    /// Whether anonymous access was asked for.
    pub anonymous: bool,
}

impl Authorizer for ClientCertificates {
    fn authorize<'a>(
        &'a self,
        attributes: &'a Attributes,
    ) -> BoxFuture<'a, Result<Decision, BoxError>> {
        let decision = match attributes.user.credential {
            Credential::ClientCertificate => Decision::Allow,
            Credential::Anonymous if self.anonymous => Decision::Allow,
            Credential::Anonymous | Credential::Token => Decision::NoOpinion,
        };
        Box::pin(async move { Ok(decision) })
    }

    fn cure(&self, _attributes: &Attributes) -> Option<String> {
        Some("present a client certificate of the client CA".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(credential: Credential) -> Attributes {
        let user = User { credential, ..User::anonymous() };
        let mut all =
            NodeAttributes::new("node").attributes(&user, &http::Method::POST, "/checkpoint/a/b/c");
        all.remove(0)
    }

    #[tokio::test]
    async fn client_certificates_are_enough_and_tokens_are_not() {
        let decide = async |anonymous, credential| {
            ClientCertificates { anonymous }.authorize(&attributes(credential)).await.unwrap()
        };
        assert_eq!(decide(false, Credential::ClientCertificate).await, Decision::Allow);
        assert_eq!(decide(false, Credential::Anonymous).await, Decision::NoOpinion);
        assert_eq!(decide(true, Credential::Anonymous).await, Decision::Allow);
        assert_eq!(decide(true, Credential::Token).await, Decision::NoOpinion);
    }

    #[tokio::test]
    async fn always_allow_allows() {
        let decision = AlwaysAllow.authorize(&attributes(Credential::Token)).await.unwrap();
        assert_eq!(decision, Decision::Allow);
    }
}
