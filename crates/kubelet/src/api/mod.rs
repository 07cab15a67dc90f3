//! What goes beyond the kubelet's endpoint, under a prefix of its own: archives (list, describe,
//! download, delete, pin), checkpoints under way (list, describe, events), restore, and the document
//! that describes it all.
//!
//! A request comes here after authentication; [`router`] finds its operation in the [`table`], the
//! door asks for the operation's own right, and [`Api::answer`] does it. Refusals are problem
//! documents ([`problem`]).

mod archives;
mod checkpoints;
mod content;
mod meter;
mod openapi;
mod problem;
mod query;
mod ranges;
mod restore;
mod router;
mod stream;
mod table;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;
use tokio::sync::watch;

use crate::authn::User;
use crate::progress::Board;
use crate::reply::{Reply, whole};
use crate::runtime::Restorer;
use crate::store::Store;

use meter::Meter;
use query::Query;
use restore::Restores;
use table::Action;

pub use archives::{ArchiveDescription, describe};
pub use table::{ARCHIVES, CONTENT, PREFIX, PROGRESS, RESTORE, rules};

pub(crate) use problem::Problem;
pub(crate) use router::{Found, Selection, select};

/// The OpenAPI document, as `GET /cryopod/v1/openapi.json` gives it.
#[must_use]
pub fn document() -> serde_json::Value {
    openapi::document()
}

/// What the operations work on.
pub(crate) struct Api {
    store: Store,
    board: Board,
    meter: Meter,
    restores: Restores,
    document: Bytes,
    /// Closed when the server stops.
    stopped: watch::Receiver<()>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Api {
    pub(crate) fn new(
        store: Store,
        board: Board,
        restorer: Option<Arc<dyn Restorer>>,
        stopped: watch::Receiver<()>,
    ) -> Self {
        Self {
            meter: Meter::new(board.clone(), store.folder().to_owned()),
            store,
            board,
            restores: Restores::new(restorer),
            document: openapi::document().to_string().into(),
            stopped,
        }
    }

    /// Does what was asked for. Dropped when the client hangs up.
    pub(crate) async fn answer(
        &self,
        found: Found,
        request: Request<Incoming>,
        user: &User,
        peer: SocketAddr,
    ) -> Reply {
        let (operation, head) = (found.operation, found.head);
        let argument = found.argument.clone();
        let reply = self.act(found, request).await.unwrap_or_else(|problem| problem.reply());
        let status = reply.status().as_u16();
        if operation.changes_or_reveals() {
            let (user, operation) = (&user.name, operation.id);
            tracing::info!(%peer, user, operation, argument, status, "answered");
        } else {
            let (user, operation) = (&user.name, operation.id);
            tracing::debug!(%peer, user, operation, argument, status, "answered");
        }
        if head { reply.map(|_| whole(Bytes::new())) } else { reply }
    }

    async fn act(&self, found: Found, request: Request<Incoming>) -> Result<Reply, Problem> {
        let Found { operation, argument, head } = found;
        let query = Query::parse(operation.query, request.uri().query())?;
        let refused = |error| archives::problem(&error);
        let store = &self.store;
        Ok(match operation.action {
            Action::ListArchives => json(StatusCode::OK, &archives::list(store, &query).await?),
            Action::DescribeArchive => {
                let described = describe(store, &argument).await.map_err(refused)?;
                json(StatusCode::OK, &described)
            }
            Action::Download => {
                let reading = store.open(&argument).await.map_err(refused)?;
                content::answer(reading, request.headers(), head)?
            }
            Action::DeleteArchive => {
                store.delete(&argument).await.map_err(refused)?;
                no_content()
            }
            Action::Pin => {
                store.pin(&argument).await.map_err(refused)?;
                no_content()
            }
            Action::Unpin => {
                store.unpin(&argument).await.map_err(refused)?;
                no_content()
            }
            Action::ListCheckpoints => {
                json(StatusCode::OK, &checkpoints::list(&self.board, &self.meter).await)
            }
            Action::DescribeCheckpoint => {
                let one = checkpoints::describe(&self.board, &self.meter, &argument).await?;
                json(StatusCode::OK, &one)
            }
            Action::Events => {
                checkpoints::events(&self.board, &self.meter, self.stopped.clone(), &argument)?
            }
            Action::Restore => {
                let (parts, body) = request.into_parts();
                let restored = self.restores.answer(store, &parts.headers, body).await?;
                json(StatusCode::CREATED, &restored)
            }
            Action::Document => bytes(StatusCode::OK, self.document.clone()),
        })
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(body) => bytes(status, body.into()),
        Err(error) => {
            tracing::error!(%error, "an answer has no JSON form");
            let text = "the answer cannot be written as JSON";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, text).reply()
        }
    }
}

fn bytes(status: StatusCode, body: Bytes) -> Reply {
    let mut reply = Response::new(());
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply.map(|()| whole(body))
}

fn no_content() -> Reply {
    let mut reply = Response::new(whole(Bytes::new()));
    *reply.status_mut() = StatusCode::NO_CONTENT;
    reply
}
