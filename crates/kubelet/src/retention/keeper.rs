//! Keeps a store within its policies.
//!
//! It has no state that matters: what is deleted follows from the folder each time anew, so it can
//! be ended at any moment, in the middle of its work too.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;

use super::amount::Age;
use super::plan::{Blocked, Doomed, Moment, Plan, plan};
use super::policy::Retention;
use super::residents::{Census, Residents};
use crate::store::{Store, StoreError, Stored};

/// Between two looks when nothing happens, unless the policies say.
const INTERVAL: Age = Age::from_secs(60);

/// How often a plan is made anew because an archive turned out to be in use or pinned.
const ROUNDS: usize = 8;

/// An archive that could not be deleted.
#[derive(Debug)]
pub struct Failed {
    /// The archive.
    pub doomed: Doomed,
    /// Why it is still there.
    pub error: StoreError,
}

/// What was done, or would be.
#[derive(Debug, Default)]
pub struct Pruned {
    /// What went; with a dry run: would go.
    pub deleted: Vec<Doomed>,
    /// What goes later, because it is in use now.
    pub waiting: Vec<Doomed>,
    /// What could not be deleted.
    pub failed: Vec<Failed>,
    /// Limits that pins prevent from being kept.
    pub blocked: Vec<Blocked>,
    /// Files that are left alone because they cannot be read as archives.
    pub unreadable: Vec<Stored>,
}

/// Deletes what the policies do not keep. Clones are one keeper.
#[derive(Clone)]
pub struct Keeper {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    retention: Retention,
    census: Option<Arc<dyn Census>>,
    wake: Notify,
    /// What was said about pins last: it is said again only when it changes.
    said: Mutex<Vec<Blocked>>,
}

impl Keeper {
    /// `census` is asked only by policies with `retainOrphan: false`; without one, they do nothing.
    #[must_use]
    pub fn new(store: Store, retention: Retention, census: Option<Arc<dyn Census>>) -> Self {
        let (wake, said) = (Notify::new(), Mutex::default());
        Self { inner: Arc::new(Inner { store, retention, census, wake, said }) }
    }

    /// Its store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Something changed: an archive is finished, or a pin is gone. Returns at once.
    pub fn notify(&self) {
        self.inner.wake.notify_one();
    }

    /// Looks now, then after each [`Keeper::notify`], when a reader or a pin lets go of an archive
    /// while one is to be deleted, and from time to time. Never ends; to be dropped at any moment.
    pub async fn run(&self) {
        let Inner { store, retention, wake, .. } = &*self.inner;
        if retention.is_empty() {
            return std::future::pending().await;
        }
        if let Some(folder) = &retention.checkpoint_directory
            && folder != store.folder()
        {
            tracing::warn!(
                meant = %folder.display(), folder = %store.folder().display(),
                "the retention policies name another folder: they are applied to ours"
            );
        }
        let interval = Duration::from_secs(retention.interval.unwrap_or(INTERVAL).as_secs());
        loop {
            let waiting = match self.prune(false).await {
                Ok(pruned) => !pruned.waiting.is_empty() || !pruned.blocked.is_empty(),
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "no retention");
                    false
                }
            };
            tokio::select! {
                () = wake.notified() => {}
                () = store.released().notified(), if waiting => {}
                () = tokio::time::sleep(interval) => {}
            }
        }
    }

    /// Looks once. With `dry_run` nothing is deleted.
    ///
    /// # Errors
    /// [`StoreError::Folder`] when the folder cannot be read. What cannot be deleted is in the
    /// answer.
    pub async fn prune(&self, dry_run: bool) -> Result<Pruned, StoreError> {
        let store = &self.inner.store;
        // Nobody of this process deletes in between: else more would go than must.
        let alone = store.alone().await;
        let mut pruned = Pruned::default();
        // Found by trying: another process reads them.
        let mut read_elsewhere: Vec<String> = Vec::new();
        for _ in 0..ROUNDS {
            let (archives, plan) = self.plan(&read_elsewhere).await?;
            pruned.unreadable =
                archives.into_iter().filter(|one| one.unreadable.is_some()).collect();
            pruned.blocked = plan.blocked;
            pruned.waiting.clear();
            pruned.failed.clear();
            let mut surprised = false;
            for mut doomed in plan.doomed {
                if doomed.in_use {
                    pruned.waiting.push(doomed);
                    continue;
                }
                if dry_run {
                    pruned.deleted.push(doomed);
                    continue;
                }
                match store.delete_alone(&doomed.name, &alone).await {
                    Ok(()) => {
                        tracing::info!(
                            archive = doomed.name, bytes = doomed.bytes, why = %doomed.why,
                            "archive deleted"
                        );
                        pruned.deleted.push(doomed);
                    }
                    // Somebody else was faster.
                    Err(StoreError::Missing { .. }) => {}
                    Err(StoreError::InUse { .. }) => {
                        read_elsewhere.push(doomed.name.clone());
                        doomed.in_use = true;
                        pruned.waiting.push(doomed);
                        surprised = true;
                    }
                    Err(StoreError::Pinned { .. }) => surprised = true,
                    Err(error) => {
                        tracing::error!(
                            archive = doomed.name, why = %doomed.why,
                            error = &error as &dyn std::error::Error, "archive not deleted"
                        );
                        pruned.failed.push(Failed { doomed, error });
                    }
                }
            }
            if !surprised {
                break;
            }
        }
        drop(alone);
        self.say_once(&pruned.blocked);
        Ok(pruned)
    }

    async fn plan(&self, read_elsewhere: &[String]) -> Result<(Vec<Stored>, Plan), StoreError> {
        let Inner { store, retention, .. } = &*self.inner;
        let mut archives = store.list().await?;
        for one in &mut archives {
            one.in_use |= read_elsewhere.contains(&one.name);
        }
        let disk = match retention.node_policy.min_free {
            Some(_) => Some(store.disk().await?),
            None => None,
        };
        // After the archives: what is gone now has been there when they were made.
        let residents = self.residents().await;
        let moment = Moment { now: Timestamp::now(), disk, residents: residents.as_ref() };
        let plan = plan(&archives, retention, &moment);
        Ok((archives, plan))
    }

    async fn residents(&self) -> Option<Residents> {
        let census = self.inner.census.as_ref()?;
        if !self.inner.retention.drops_orphans() {
            return None;
        }
        match census.residents().await {
            Ok(residents) => Some(residents),
            Err(error) => {
                tracing::warn!(
                    error = &*error as &dyn std::error::Error,
                    "what still exists is not known: no archive goes as an orphan"
                );
                None
            }
        }
    }

    fn say_once(&self, blocked: &[Blocked]) {
        let mut said = self.inner.said.lock().unwrap_or_else(PoisonError::into_inner);
        for one in blocked.iter().filter(|one| !said.contains(one)) {
            tracing::warn!(
                limit = %one.limit, pinned = ?one.pinned,
                "a limit cannot be kept: what is left is pinned"
            );
        }
        *said = blocked.to_vec();
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper")
            .field("store", &self.inner.store)
            .field("retention", &self.inner.retention)
            .finish_non_exhaustive()
    }
}
