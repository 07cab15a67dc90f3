//! One request, from its path to its answer.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use http::header::ACCEPT;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use rustls_pki_types::CertificateDer;

use crate::api::{self, Api, Problem};
use crate::authn::{Chain, Presented, User};
use crate::authz::{Authorizer, Decision, RequestAttributes};
use crate::checkpoint::{Checkpointer, Target};
use crate::reply::{self, Reply};
use crate::retention::Keeper;
use crate::routes::{self, Landing, Selection};

/// How much of a request's body is taken in, to be able to see the client hang up.
const BODY_BYTES: usize = 1 << 20;

/// Judges and handlers.
pub(super) struct Door {
    pub(super) chain: Chain,
    pub(super) attributes: Arc<dyn RequestAttributes>,
    pub(super) authorizer: Arc<dyn Authorizer>,
    pub(super) checkpointer: Checkpointer,
    pub(super) keeper: Option<Keeper>,
    pub(super) api: Api,
    /// Whether the checkpoint route exists.
    pub(super) registered: bool,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door")
            .field("chain", &self.chain)
            .field("checkpointer", &self.checkpointer)
            .field("registered", &self.registered)
            .finish_non_exhaustive()
    }
}

impl Door {
    /// Answers; never fails. Dropped when the client hangs up.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        certificates: &[CertificateDer<'static>],
        peer: SocketAddr,
    ) -> Reply {
        let method = request.method();
        let uri = request.uri();
        let path = match routes::land(method, uri.path(), uri.query(), self.registered) {
            Landing::BadRequest => return reply::bad_request(),
            Landing::NotFound => return reply::page_not_found(),
            Landing::Redirect { status, location } => {
                return reply::redirect(method, status, &location);
            }
            Landing::Guarded { path } => path,
            Landing::Beyond { path } => {
                return self.beyond(request, path, certificates, peer).await;
            }
        };
        let presented = Presented { headers: request.headers(), certificates };
        let user = match self.admit(&request, &path, presented, peer).await {
            Ok(user) => user,
            Err(refusal) => return refusal,
        };
        // A value that is not text matches no type.
        let accept =
            request.headers().get(ACCEPT).map(|value| HeaderValue::to_str(value).unwrap_or("?"));
        let target = match routes::select(method, &path, accept) {
            Selection::NotFound => return reply::no_route(),
            Selection::MethodNotAllowed => return reply::method_not_allowed(),
            Selection::NotAcceptable => return reply::not_acceptable(),
            Selection::Checkpoint { namespace, pod, container } => {
                Target { namespace, pod, container }
            }
        };
        let query = uri.query().map(str::to_owned);
        let body = request.into_body();
        let made = tokio::select! {
            made = self.checkpointer.checkpoint(&target, query.as_deref()) => made,
            never = take_in(body) => match never {},
        };
        match made {
            Ok(path) => {
                tracing::info!(%peer, user = user.name, %target, path, "checkpoint done");
                if let Some(keeper) = &self.keeper {
                    keeper.notify();
                }
                reply::items(&[&path])
            }
            Err(error) => {
                let status = error.status();
                tracing::warn!(
                    %peer, user = user.name, status = status.as_u16(), %error, %target,
                    "no checkpoint"
                );
                reply::text(status, error.to_string())
            }
        }
    }

    /// Answers what goes beyond the kubelet: who it is first, then what is asked for, then whether
    /// they may. Nothing is told by a path or a method alone, so those are right before that.
    async fn beyond(
        &self,
        request: Request<Incoming>,
        path: Option<String>,
        certificates: &[CertificateDer<'static>],
        peer: SocketAddr,
    ) -> Reply {
        let presented = Presented { headers: request.headers(), certificates };
        let shown = path.as_deref().unwrap_or(request.uri().path());
        let user = match self.authenticate(shown, presented, peer).await {
            Ok(user) => user,
            Err(refusal) => return refusal,
        };
        let Some(path) = path else {
            return Problem::bad_request("the path has a broken percent escape").reply();
        };
        let found = match api::select(request.method(), &path) {
            api::Selection::NotFound => {
                let text = format!("there is nothing at {path}: see {}/openapi.json", api::PREFIX);
                return Problem::not_found(text).reply();
            }
            api::Selection::MethodNotAllowed { allow } => {
                return Problem::method_not_allowed(&allow).reply();
            }
            api::Selection::Found(found) => found,
        };
        match self.authorize(user, &request, &path, peer).await {
            Ok(user) => self.api.answer(found, request, &user, peer).await,
            Err(refusal) => refusal,
        }
    }

    /// Authentication, then authorization: the user, or the refusal.
    async fn admit(
        &self,
        request: &Request<Incoming>,
        path: &str,
        presented: Presented<'_>,
        peer: SocketAddr,
    ) -> Result<User, Reply> {
        let user = self.authenticate(path, presented, peer).await?;
        self.authorize(user, request, path, peer).await
    }

    async fn authenticate(
        &self,
        path: &str,
        presented: Presented<'_>,
        peer: SocketAddr,
    ) -> Result<User, Reply> {
        let Some(user) = self.chain.authenticate(presented).await else {
            tracing::warn!(%peer, path, "not authenticated");
            return Err(reply::text(StatusCode::UNAUTHORIZED, "Unauthorized"));
        };
        Ok(user)
    }

    async fn authorize(
        &self,
        user: User,
        request: &Request<Incoming>,
        path: &str,
        peer: SocketAddr,
    ) -> Result<User, Reply> {
        let all = self.attributes.attributes(&user, request.method(), path);
        let Some(first) = all.first() else {
            return Err(reply::text(
                StatusCode::FORBIDDEN,
                "Authorization error: could not determine attributes for request",
            ));
        };
        for attributes in &all {
            match self.authorizer.authorize(attributes).await {
                Ok(Decision::Allow) => return Ok(user),
                Ok(Decision::Deny | Decision::NoOpinion) => {}
                Err(error) => {
                    tracing::error!(
                        %peer, user = user.name, error = &*error as &dyn std::error::Error,
                        "authorization failed"
                    );
                    return Err(reply::text(
                        StatusCode::INTERNAL_SERVER_ERROR,
                        format!(
                            "Authorization error (user={}, verb={}, resource={}, subresource={})",
                            user.name, attributes.verb, attributes.resource, attributes.subresource
                        ),
                    ));
                }
            }
        }
        let subresources: Vec<&str> = all.iter().map(|one| one.subresource).collect();
        let subresources = subresources.join(" ");
        tracing::warn!(
            %peer, user = user.name, groups = ?user.groups,
            "forbidden: needs {} on {}/{}", first.verb, first.resource, subresources
        );
        Err(reply::text(
            StatusCode::FORBIDDEN,
            format!(
                "Forbidden (user={}, verb={}, resource={}, subresource(s)=[{subresources}])\n",
                user.name, first.verb, first.resource
            ),
        ))
    }
}

/// Takes in the body, which nobody reads: only behind it can the end of an HTTP/1 connection be
/// seen. Never returns.
async fn take_in(mut body: Incoming) -> std::convert::Infallible {
    let mut seen = 0;
    while seen < BODY_BYTES
        && let Some(Ok(frame)) = body.frame().await
    {
        seen += frame.data_ref().map_or(0, |data| data.len());
    }
    // The rest stays where it is; to drop the body now would end the connection.
    std::future::pending::<()>().await;
    drop(body);
    unreachable!("pending forever")
}
