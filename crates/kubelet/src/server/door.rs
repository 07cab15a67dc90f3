//! One request, from its path to its answer.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use http::header::ACCEPT;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use opentelemetry::context::FutureExt as _;
use rustls_pki_types::CertificateDer;
use tracing::Instrument as _;

use crate::api::{self, Api, Problem};
use crate::audit::{self, Audit, Record, RequestId};
use crate::authn::{Chain, Presented, User};
use crate::authz::{Attributes, Authorizer, Decision, RequestAttributes, pod_attributes};
use crate::checkpoint::{Checkpointer, Target};
use crate::health::Health;
use crate::kubernetes_version::KubernetesVersion;
use crate::metrics::{self, Format, Metrics};
use crate::reply::{self, Reply};
use crate::retention::Keeper;
use crate::routes::{self, Landing, Prefix, Selection};
use crate::tls::ServingCertificate;
use crate::trace;

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
    /// Whose texts are spoken.
    pub(super) version: KubernetesVersion,
    /// Whether `create pods/checkpoint` is needed, too.
    pub(super) authorize_pods: bool,
    /// Whether the checkpoint route exists.
    pub(super) registered: bool,
    pub(super) health: Arc<Health>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) audit: Audit,
    pub(super) certificate: Arc<ServingCertificate>,
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
        let request_id = RequestId::of(request.headers());
        let (method, uri) = (request.method(), request.uri());
        let landing = routes::land(method, uri.path(), uri.query(), self.registered);
        // Before anybody is asked who they are; but what is no path is no request, for Go.
        let counted = (landing != Landing::BadRequest).then(|| {
            let known = Prefix::counted(self.registered);
            let path = metrics::bucket(&routes::decoded(uri.path()), known);
            self.metrics.http.begin(method, path)
        });
        let mut reply = match landing {
            Landing::BadRequest => reply::bad_request(),
            Landing::NotFound => reply::page_not_found(),
            Landing::Redirect { status, location } => reply::redirect(method, status, &location),
            Landing::Guarded { prefix, path } => {
                let remote = trace::received(request.headers());
                let id = request_id.as_str();
                let span = trace::request_span(&remote, method, prefix.route(), &path, id);
                self.guarded(request, prefix, &path, certificates, peer, &request_id)
                    .instrument(span)
                    .with_context(remote)
                    .await
            }
            Landing::Beyond { path } => {
                let remote = trace::received(request.headers());
                let id = request_id.as_str();
                let shown = path.as_deref().unwrap_or(uri.path());
                let span = trace::request_span(&remote, method, api::PREFIX, shown, id);
                self.beyond(request, path, certificates, peer, &request_id)
                    .instrument(span)
                    .with_context(remote)
                    .await
            }
        };
        request_id.mark(reply.headers_mut());
        drop(counted);
        reply
    }

    /// Behind the first door: who is it, may they, and then the page.
    async fn guarded(
        &self,
        request: Request<Incoming>,
        prefix: Prefix,
        path: &str,
        certificates: &[CertificateDer<'static>],
        peer: SocketAddr,
        request_id: &RequestId,
    ) -> Reply {
        let presented = Presented { headers: request.headers(), certificates };
        let method = request.method();
        let mut record = self.audit.begin(request_id, peer, method, path, presented);
        let reply = match self.admit(&request, path, presented, peer, &mut record).await {
            Err(refusal) => refusal,
            Ok(user) => match prefix {
                Prefix::Checkpoint => {
                    self.checkpoint(request, path, peer, &user, &mut record).await
                }
                Prefix::Metrics => {
                    record.routine();
                    self.expose(&request)
                }
                Prefix::Healthz | Prefix::Readyz => {
                    record.routine();
                    let answer = self.health.answer(path, request.uri().query()).await;
                    answer.unwrap_or_else(reply::page_not_found)
                }
            },
        };
        finish(record, &reply);
        reply
    }

    /// The one route there is.
    async fn checkpoint(
        &self,
        request: Request<Incoming>,
        path: &str,
        peer: SocketAddr,
        user: &User,
        record: &mut Record,
    ) -> Reply {
        // A value that is not text matches no type.
        let accept =
            request.headers().get(ACCEPT).map(|value| HeaderValue::to_str(value).unwrap_or("?"));
        record.result("no_route");
        let target = match routes::select(request.method(), path, accept) {
            Selection::NotFound => return reply::no_route(),
            Selection::MethodNotAllowed => return reply::method_not_allowed(),
            Selection::NotAcceptable => return reply::not_acceptable(),
            Selection::Checkpoint { namespace, pod, container } => {
                Target { namespace, pod, container }
            }
        };
        record.target(&target);
        if self.authorize_pods {
            let needed = pod_attributes(user, &target, path);
            if let Err(refusal) = self.permit(&[needed], peer, record).await {
                return refusal;
            }
        }
        let query = request.uri().query().map(str::to_owned);
        let body = request.into_body();
        let made = tokio::select! {
            made = self.checkpointer.checkpoint(&target, query.as_deref()) => made,
            never = take_in(body) => match never {},
        };
        match made {
            Ok(made) => {
                let path = made.path;
                tracing::info!(%peer, user = user.name, %target, path, "checkpoint done");
                let reply = reply::items(&[&path]);
                let bytes = made.report.map(|report| report.archive_bytes);
                record.archive(audit::describe(path, bytes).await);
                record.result("done");
                if let Some(keeper) = &self.keeper {
                    keeper.notify();
                }
                reply
            }
            Err(error) => {
                let (status, result) = error.class();
                let text = error.to_string();
                tracing::warn!(
                    %peer, user = user.name, status = status.as_u16(), %error, %target,
                    "no checkpoint"
                );
                record.result(result);
                record.reason(&text);
                reply::text(status, text)
            }
        }
    }

    /// All metrics.
    fn expose(&self, request: &Request<Incoming>) -> Reply {
        if let Some((_, ends)) = self.certificate.validity() {
            self.metrics.certificate_ends(ends);
        }
        let accept = request.headers().get_all(ACCEPT).iter();
        let accept: Vec<&str> = accept.filter_map(|value| value.to_str().ok()).collect();
        let format = Format::negotiate(&accept.join(","));
        reply::metrics(self.metrics.expose(format), format.content_type())
    }

    /// Answers what goes beyond the kubelet: who it is first, then what is asked for, then whether
    /// they may. Nothing is told by a path or a method alone, so those are right before that.
    async fn beyond(
        &self,
        request: Request<Incoming>,
        path: Option<String>,
        certificates: &[CertificateDer<'static>],
        peer: SocketAddr,
        request_id: &RequestId,
    ) -> Reply {
        let presented = Presented { headers: request.headers(), certificates };
        let shown = path.as_deref().unwrap_or(request.uri().path());
        let method = request.method();
        let mut record = self.audit.begin(request_id, peer, method, shown, presented);
        let reply = match self.authenticate(shown, presented, peer, &mut record).await {
            Ok(user) => self.beyond_as(user, request, path, peer, &mut record).await,
            Err(refusal) => refusal,
        };
        finish(record, &reply);
        reply
    }

    async fn beyond_as(
        &self,
        user: User,
        request: Request<Incoming>,
        path: Option<String>,
        peer: SocketAddr,
        record: &mut Record,
    ) -> Reply {
        record.user(&user, "");
        record.result("no_route");
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
        match self.authorize(user, &request, &path, peer, record).await {
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
        record: &mut Record,
    ) -> Result<User, Reply> {
        let user = self.authenticate(path, presented, peer, record).await?;
        self.authorize(user, request, path, peer, record).await
    }

    async fn authenticate(
        &self,
        path: &str,
        presented: Presented<'_>,
        peer: SocketAddr,
        record: &mut Record,
    ) -> Result<User, Reply> {
        let span = tracing::debug_span!("authentication");
        let user = self.chain.authenticate(presented).instrument(span).await;
        self.metrics.authenticated(user.as_ref().map(|user| user.credential));
        let Some(user) = user else {
            tracing::warn!(%peer, path, "not authenticated");
            record.result("unauthenticated");
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
        record: &mut Record,
    ) -> Result<User, Reply> {
        let all = self.attributes.attributes(&user, request.method(), path);
        record.user(&user, all.first().map_or("", |first| first.verb));
        let span = tracing::debug_span!("authorization");
        self.permit(&all, peer, record).instrument(span).await.map(|()| user)
    }

    /// Authorization: one of these must be allowed.
    async fn permit(
        &self,
        all: &[Attributes],
        peer: SocketAddr,
        record: &mut Record,
    ) -> Result<(), Reply> {
        let Some(first) = all.first() else {
            record.result("forbidden");
            return Err(reply::text(
                StatusCode::FORBIDDEN,
                "Authorization error: could not determine attributes for request",
            ));
        };
        let user = &first.user;
        for attributes in all {
            match self.authorizer.authorize(attributes).await {
                Ok(Decision::Allow) => {
                    self.metrics.authorized("allowed", attributes);
                    record.result("allowed");
                    return Ok(());
                }
                Ok(Decision::Deny | Decision::NoOpinion) => {}
                Err(error) => {
                    tracing::error!(
                        %peer, user = user.name, error = &*error as &dyn std::error::Error,
                        "authorization failed"
                    );
                    self.metrics.authorized("error", attributes);
                    record.result("authorization_error");
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
        self.metrics.authorized("denied", first);
        record.result("forbidden");
        let subresources: Vec<&str> = all.iter().map(|one| one.subresource).collect();
        tracing::warn!(
            %peer, user = user.name, groups = ?user.groups, cure = self.authorizer.cure(first),
            "forbidden: needs {} on {}/{}", first.verb, first.resource, subresources.join(" ")
        );
        let text = self.version.forbidden(&user.name, first.verb, first.resource, &subresources);
        Err(reply::text(StatusCode::FORBIDDEN, text))
    }
}

/// The status goes into the span and the audit line, which ends here.
fn finish(record: Record, reply: &Reply) {
    let status = reply.status();
    let span = tracing::Span::current();
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    record.end(status);
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
