//! A container's freezer, played by the test.

use std::sync::{Arc, Mutex};

use cryopod_kubelet::thaw::{Freezer, Motion, Thaw};
use cryopod_kubelet::{BoxError, BoxFuture};
use tokio::sync::Notify;

/// The freezer of every container. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Freezers {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    frozen: bool,
    thaws: usize,
    asked_for: Vec<(String, u32)>,
}

impl Freezers {
    fn change<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        let result = with(&mut self.inner.state.lock().unwrap());
        self.inner.changed.notify_waiters();
        result
    }

    pub(crate) fn set_frozen(&self, frozen: bool) {
        self.change(|state| state.frozen = frozen);
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.change(|state| state.frozen)
    }

    /// How often something frozen was thawed.
    pub(crate) fn thaws(&self) -> usize {
        self.change(|state| state.thaws)
    }

    /// Containers and pids that were asked for.
    pub(crate) fn asked_for(&self) -> Vec<(String, u32)> {
        self.change(|state| state.asked_for.clone())
    }

    /// Waits until something frozen was thawed so often.
    pub(crate) async fn thawed(&self, count: usize) {
        loop {
            let changed = self.inner.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.inner.state.lock().unwrap().thaws >= count {
                return;
            }
            changed.await;
        }
    }
}

impl Thaw for Freezers {
    fn freezer<'a>(
        &'a self,
        container_id: &'a str,
        pid: u32,
    ) -> BoxFuture<'a, Result<Arc<dyn Freezer>, BoxError>> {
        self.change(|state| state.asked_for.push((container_id.to_owned(), pid)));
        let freezer: Arc<dyn Freezer> = Arc::new(self.clone());
        Box::pin(async move { Ok(freezer) })
    }
}

impl Freezer for Freezers {
    fn look(&self) -> BoxFuture<'_, Result<Motion, BoxError>> {
        let motion = if self.is_frozen() { Motion::Frozen } else { Motion::Runs };
        Box::pin(async move { Ok(motion) })
    }

    fn thaw(&self) -> BoxFuture<'_, Result<(), BoxError>> {
        self.change(|state| {
            state.thaws += usize::from(state.frozen);
            state.frozen = false;
        });
        Box::pin(async { Ok(()) })
    }
}
