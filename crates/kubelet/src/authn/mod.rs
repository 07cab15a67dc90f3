//! Who is it: the chain of authenticators.
//!
//! All are tried in order; the first that knows the caller wins, even if an earlier one failed.
//! A caller whom none knows is `system:anonymous` where anonymous access was asked for and no
//! authenticator failed: a credential that was presented and is bad is never turned into an
//! anonymous caller. [`Tokens`] judges bearer tokens by the API server.

mod token;
mod x509;

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use rustls_pki_types::CertificateDer;

use crate::{BoxError, BoxFuture};

pub use token::{TokenError, TokenOptions, Tokens};
pub(crate) use x509::credential_id;
pub use x509::{ClientCa, ClientCaError, X509Error};

/// The group of everybody who was authenticated.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everybody who was not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user without credentials.
pub const ANONYMOUS: &str = "system:anonymous";

/// A caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user's name.
    pub name: String,
    /// Unique id, where the authenticator knows one.
    pub uid: String,
    /// Groups, in the authenticator's order.
    pub groups: Vec<String>,
    /// Further facts, by key.
    pub extra: BTreeMap<String, Vec<String>>,
    /// How the caller proved it.
    pub credential: Credential,
}

/// What a [`User`] was recognised by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A client certificate that chains to the client CA.
    ClientCertificate,
    /// A bearer token.
    Token,
    /// Nothing.
    Anonymous,
}

impl Credential {
    /// A word for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientCertificate => "certificate",
            Self::Token => "token",
            Self::Anonymous => "anonymous",
        }
    }
}

impl User {
    /// The caller without credentials.
    pub fn anonymous() -> Self {
        Self {
            name: ANONYMOUS.to_owned(),
            uid: String::new(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            extra: BTreeMap::new(),
            credential: Credential::Anonymous,
        }
    }
}

/// What a caller presented.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// The request's headers.
    pub headers: &'a HeaderMap,
    /// The certificates of the TLS handshake, leaf first. Only the possession of the leaf's key
    /// is proven; nothing else about them is.
    pub certificates: &'a [CertificateDer<'static>],
}

/// Recognises callers by one kind of credential.
pub trait Authenticator: Send + Sync {
    /// `None`: nothing presented that this authenticator judges. An error: something was
    /// presented and is bad, or could not be judged.
    fn authenticate<'a>(
        &'a self,
        presented: Presented<'a>,
    ) -> BoxFuture<'a, Result<Option<User>, BoxError>>;
}

/// No way to authenticate anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no authentication method configured")]
pub struct NoMethod;

/// The whole chain.
#[derive(Clone)]
pub struct Chain {
    authenticators: Vec<Arc<dyn Authenticator>>,
    anonymous: bool,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain")
            .field("authenticators", &self.authenticators.len())
            .field("anonymous", &self.anonymous)
            .finish()
    }
}

impl Chain {
    /// Refuses a chain that could not authenticate anybody.
    pub fn new(
        authenticators: Vec<Arc<dyn Authenticator>>,
        anonymous: bool,
    ) -> Result<Self, NoMethod> {
        if authenticators.is_empty() && !anonymous {
            return Err(NoMethod);
        }
        Ok(Self { authenticators, anonymous })
    }

    /// The caller, or `None` for one who is to be answered 401. Failures are logged here.
    pub async fn authenticate(&self, presented: Presented<'_>) -> Option<User> {
        let mut failed = false;
        for authenticator in &self.authenticators {
            match authenticator.authenticate(presented).await {
                Ok(Some(mut user)) => {
                    if !user.groups.iter().any(|group| group == AUTHENTICATED) {
                        user.groups.push(AUTHENTICATED.to_owned());
                    }
                    return Some(user);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(error = &*error as &dyn std::error::Error, "bad credentials");
                    failed = true;
                }
            }
        }
        (self.anonymous && !failed).then(User::anonymous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers the same to everybody.
    struct Fixed(Result<Option<&'static str>, &'static str>);

    impl Authenticator for Fixed {
        fn authenticate<'a>(
            &'a self,
            _presented: Presented<'a>,
        ) -> BoxFuture<'a, Result<Option<User>, BoxError>> {
            let user = |name: &str| User {
                name: name.to_owned(),
                groups: vec!["dev".to_owned()],
                credential: Credential::Token,
                ..User::anonymous()
            };
            let answer = match self.0 {
                Ok(name) => Ok(name.map(user)),
                Err(text) => Err(BoxError::from(text)),
            };
            Box::pin(async move { answer })
        }
    }

    async fn name(
        chain: &[Result<Option<&'static str>, &'static str>],
        anonymous: bool,
    ) -> Option<String> {
        let authenticators =
            chain.iter().map(|answer| Arc::new(Fixed(*answer)) as Arc<dyn Authenticator>);
        let chain = Chain::new(authenticators.collect(), anonymous).unwrap();
        let headers = HeaderMap::new();
        let presented = Presented { headers: &headers, certificates: &[] };
        chain.authenticate(presented).await.map(|user| format!("{} {:?}", user.name, user.groups))
    }

    #[tokio::test]
    async fn the_first_who_knows_the_caller_wins_even_after_a_failure() {
        let a = r#"a ["dev", "system:authenticated"]"#;
        assert_eq!(name(&[Ok(Some("a")), Ok(Some("b"))], true).await.as_deref(), Some(a));
        assert_eq!(name(&[Ok(None), Ok(Some("a"))], false).await.as_deref(), Some(a));
        assert_eq!(name(&[Err("bad"), Ok(Some("a"))], false).await.as_deref(), Some(a));
        assert_eq!(name(&[Ok(None), Ok(None)], false).await, None);
    }

    #[tokio::test]
    async fn a_bad_credential_is_never_an_anonymous_caller() {
        let anonymous = r#"system:anonymous ["system:unauthenticated"]"#;
        assert_eq!(name(&[], true).await.as_deref(), Some(anonymous));
        assert_eq!(name(&[Ok(None)], true).await.as_deref(), Some(anonymous));
        assert_eq!(name(&[Ok(None), Err("bad")], true).await, None);
        assert_eq!(name(&[Err("bad"), Ok(None)], true).await, None);
    }

    #[test]
    fn a_chain_that_knows_nobody_is_refused() {
        let error = Chain::new(Vec::new(), false).unwrap_err();
        assert_eq!(error.to_string(), "no authentication method configured");
    }
}
