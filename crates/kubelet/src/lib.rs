//! The kubelet's HTTPS side: routes, authentication, authorization, TLS.
//!
//! One endpoint, `POST /checkpoint/{namespace}/{pod}/{container}`, answered byte for byte as a
//! kubelet answers it. What stands behind it is any CRI runtime, reached through [`Runtime`].
//! Beside it, as in a kubelet, `/metrics` and `/healthz`, and `/readyz`, behind the same door. What
//! goes beyond a kubelet is below a prefix of its own ([`api`]).
//!
//! A request travels: TLS ([`tls`], client certificates asked for but not judged) -> [`routes`]
//! (clean path, known prefix) -> [`authn`] (who is it) -> [`authz`] (may they) -> method and
//! `Accept` -> [`checkpoint`] (pod, container, timeout, file name, CRI call).
//!
//! Routing is ours and not axum's: the order of checks, the redirects and the bodies are those
//! of Go's mux and go-restful, and clients depend on them.
//!
//! What this crate refuses: to start when nobody could be authenticated, and to serve the
//! checkpoint route to a caller that it has not authenticated, unless anonymous access was asked
//! for by name.

pub mod api;
pub mod apiserver;
mod attempt;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod checkpoint;
pub mod config;
mod deposit;
pub mod feature_gates;
mod health;
pub mod kubernetes_version;
mod location;
mod metrics;
mod pods;
pub mod progress;
mod reload;
mod reply;
pub mod retention;
mod room;
pub mod routes;
pub mod runtime;
pub mod server;
pub mod store;
pub mod thaw;
pub mod timeout;
pub mod tls;
mod trace;
mod turns;

use std::pin::Pin;

pub use feature_gates::FeatureGates;
pub use kubernetes_version::KubernetesVersion;
pub use retention::{Keeper, Retention};
pub use runtime::{CriRuntime, Restorer, Runtime};
pub use server::{AuthorizationMode, Delegates, Limits, Options, Server, StartError};
pub use store::{Store, StoreError};

/// A future behind a trait object, so that the seams of this crate can be trait objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The error of an implementor outside this crate: it is logged, never shown to the caller.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
