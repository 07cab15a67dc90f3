//! One CheckpointContainer call, and what must be true after it, however it ends: the container
//! runs, and either a whole archive is told or none is there.
//!
//! An [`Attempt`] is armed before the call. Dropping it, in whatever state, starts a task that owns
//! the container's turn and the location and works through the aftermath; so it does not matter
//! whether the request's future still exists. The turn goes back when the container is known to run.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use crate::deposit::{self, Latecomers};
use crate::location::Location;
use crate::runtime::{Code, RpcError};
use crate::thaw::{Care, Ward};
use crate::turns::Turn;

/// How long an answer waits for the first look at the container. It is a matter of milliseconds;
/// a freezer that hangs must not keep the caller.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// What aftermaths share.
#[derive(Clone, Debug)]
pub(crate) struct Aftermaths {
    care: Care,
    latecomers: Latecomers,
    under_way: Arc<watch::Sender<usize>>,
}

impl Aftermaths {
    pub(crate) fn new(care: Care, latecomers: Latecomers) -> Self {
        Self { care, latecomers, under_way: Arc::new(watch::Sender::new(0)) }
    }

    /// Done when no aftermath is under way.
    pub(crate) async fn settled(&self) {
        // The sender is ours: this cannot fail.
        let _ = self.under_way.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// Counts one aftermath as long as it lives.
struct UnderWay(Arc<watch::Sender<usize>>);

impl UnderWay {
    fn new(count: &Arc<watch::Sender<usize>>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(Arc::clone(count))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// How the call ended, as far as the runtime's work is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It answered: its work is done.
    Answered,
    /// It was not waited for, or could not be: it may go on.
    Unknown,
}

impl End {
    fn of<T>(answer: &Result<T, RpcError>) -> Self {
        match answer {
            // Codes that our own side gives for a call without an answer; a runtime that gives them
            // itself has given up in the middle.
            Err(RpcError {
                code: Code::DeadlineExceeded | Code::Cancelled | Code::Unavailable,
                ..
            }) => Self::Unknown,
            Ok(_) | Err(_) => Self::Answered,
        }
    }
}

/// A call that is to be made, is under way, or has ended.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// `None` once the aftermath has it.
    inner: Option<Inner>,
    aftermaths: Aftermaths,
}

#[derive(Debug)]
struct Inner {
    turn: Turn,
    location: Location,
    ward: Option<Ward>,
    end: End,
    kept: bool,
}

impl Attempt {
    /// `ward` is `None` where the container is not to be touched.
    pub(crate) fn arm(
        turn: Turn,
        location: Location,
        ward: Option<Ward>,
        aftermaths: &Aftermaths,
    ) -> Self {
        let inner = Inner { turn, location, ward, end: End::Unknown, kept: false };
        Self { inner: Some(inner), aftermaths: aftermaths.clone() }
    }

    /// The runtime's answer, or our own error in its place.
    pub(crate) fn answered<T>(&mut self, answer: &Result<T, RpcError>) {
        if let Some(inner) = &mut self.inner {
            inner.end = End::of(answer);
        }
    }

    /// The archive stays. Done when the container was seen running, or at least looked after.
    pub(crate) async fn keep(mut self) {
        if let Some(inner) = &mut self.inner {
            inner.kept = true;
        }
        self.end().await;
    }

    /// No archive stays. Done when what is there now is removed and the container was looked after
    /// once; what comes later is seen to without the caller.
    pub(crate) async fn discard(self) {
        self.end().await;
    }

    async fn end(mut self) {
        if let Some(first) = self.begin_aftermath() {
            // A sender that is gone has done what it could.
            let _ = tokio::time::timeout(FIRST_LOOK, first).await;
        }
    }

    fn begin_aftermath(&mut self) -> Option<oneshot::Receiver<()>> {
        let inner = self.inner.take()?;
        // Without tokio nothing can be done any more; the process is about to end.
        let tokio = tokio::runtime::Handle::try_current().ok()?;
        let (sender, first) = oneshot::channel();
        let under_way = UnderWay::new(&self.aftermaths.under_way);
        let aftermaths = self.aftermaths.clone();
        tokio.spawn(async move {
            aftermath(inner, &aftermaths, sender).await;
            drop(under_way);
        });
        Some(first)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.begin_aftermath();
    }
}

async fn aftermath(inner: Inner, aftermaths: &Aftermaths, first: oneshot::Sender<()>) {
    let Inner { turn, location, ward, end, kept } = inner;
    // What is kept is nobody's place any more, before anybody hears of it.
    let location = (!kept).then_some(location);
    if let Some(location) = &location {
        let path = location.path().to_owned();
        let removed = tokio::task::spawn_blocking(move || deposit::remove(&path)).await;
        // It only fails where it panics, which is reported by the panic.
        removed.unwrap_or_default();
    }
    let told = || {
        // Nobody may wait any more.
        let _ = first.send(());
    };
    match ward {
        None => told(),
        Some(ward) if end == End::Answered => {
            ward.settle().await;
            told();
        }
        Some(ward) => ward.watch(aftermaths.care, told).await,
    }
    drop(turn);
    if let (Some(location), End::Unknown) = (location, end) {
        aftermaths.latecomers.watch(location);
    }
}
