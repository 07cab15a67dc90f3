//! The container goes on, whatever became of a call.
//!
//! A runtime stops the container for a checkpoint and lets it go on afterwards. Where it forgets to
//! (containerd 2.1 after a deadline: its own clean-up runs under the deadline that has passed), or
//! where it died in between, the container would stand still for ever. What a freezer is, is for
//! [`Thaw`] to know, which is implemented where there are system calls; when to look and when to
//! touch is known here:
//!
//! - only a container that ran before our call is thawed: one that was paused by somebody is theirs;
//! - only while no other call of ours for the container is under way: the turn is held;
//! - after an answer one look is enough, since the runtime has done its work; after a deadline, a
//!   hang-up or a lost runtime, it may still be freezing, or a dump it left behind may freeze again
//!   at its end. Then it is looked at until it ran untraced for a while, or for a bounded time.
//!
//! That a thaw meets a dump still going on harms nobody: the tasks stay with their tracer, and the
//! archive is thrown away in any case. What cannot be told apart is a pause that somebody else asks
//! for while our call is under way: it is undone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::{BoxError, BoxFuture};

/// What a container is seen doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Motion {
    /// It runs.
    Runs,
    /// It is not frozen, but some process of it has a tracer: a dump may be under way.
    Traced,
    /// It is frozen or being frozen, by its own freezer and not one above it.
    Frozen,
    /// It has no process any more.
    Gone,
}

/// Finds a container's freezer.
pub trait Thaw: Send + Sync + 'static {
    /// The freezer of the container whose first process is `pid`. Called before the checkpoint, while
    /// the pid is certain to be the container's.
    ///
    /// # Errors
    /// When there is none, or when it could be another's: then nothing is ever thawed.
    fn freezer<'a>(
        &'a self,
        container_id: &'a str,
        pid: u32,
    ) -> BoxFuture<'a, Result<Arc<dyn Freezer>, BoxError>>;
}

/// One container's freezer. It stays that container's when the pid is used again.
pub trait Freezer: Send + Sync + 'static {
    /// What the container does now.
    fn look(&self) -> BoxFuture<'_, Result<Motion, BoxError>>;
    /// Lets it go on; harmless when it runs.
    fn thaw(&self) -> BoxFuture<'_, Result<(), BoxError>>;
}

/// How long a container is looked after, once a call ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Care {
    /// Between two looks.
    pub interval: Duration,
    /// So long it must have run untraced. The next checkpoint of the container waits for this.
    pub calm: Duration,
    /// After this it is left alone, calm or not.
    pub longest: Duration,
}

impl Default for Care {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(100),
            calm: Duration::from_secs(3),
            longest: Duration::from_secs(600),
        }
    }
}

/// A container that ran before our call, and must run after it.
#[derive(Clone)]
pub(crate) struct Ward {
    container_id: String,
    freezer: Arc<dyn Freezer>,
}

impl Ward {
    /// `None`: it must not be touched, because it did not run before or because that is not known.
    pub(crate) async fn find(thaw: &dyn Thaw, container_id: &str, pid: u32) -> Option<Self> {
        let freezer = match thaw.freezer(container_id, pid).await {
            Ok(freezer) => freezer,
            Err(error) => {
                tracing::warn!(
                    container_id,
                    pid,
                    error = &*error as &dyn std::error::Error,
                    "the container's freezer is not found: it is the runtime alone that thaws it"
                );
                return None;
            }
        };
        match freezer.look().await {
            Ok(Motion::Runs | Motion::Traced) => {
                Some(Self { container_id: container_id.to_owned(), freezer })
            }
            Ok(Motion::Frozen) => {
                tracing::info!(container_id, "paused before the checkpoint: it stays so");
                None
            }
            Ok(Motion::Gone) => None,
            Err(error) => {
                tracing::warn!(
                    container_id,
                    error = &*error as &dyn std::error::Error,
                    "cannot look at the container's freezer"
                );
                None
            }
        }
    }

    /// Looks once, and thaws. What it did after that; `None` when that cannot be told.
    pub(crate) async fn settle(&self) -> Option<Motion> {
        let container_id = &*self.container_id;
        let failed = |error: BoxError| {
            tracing::error!(
                container_id,
                error = &*error as &dyn std::error::Error,
                "cannot see to it that the container goes on"
            );
        };
        let motion = self.freezer.look().await.map_err(failed).ok()?;
        if motion == Motion::Frozen {
            tracing::warn!(container_id, "left frozen by the runtime: thawing it");
            self.freezer.thaw().await.map_err(failed).ok()?;
        }
        Some(motion)
    }

    /// Looks until it is calm. `first` is done after the first look.
    pub(crate) async fn watch(&self, care: Care, first: impl FnOnce()) {
        let begun = Instant::now();
        let mut calm_since = None;
        let mut first = Some(first);
        loop {
            let motion = self.settle().await;
            if let Some(first) = first.take() {
                first();
            }
            match motion {
                Some(Motion::Runs) => {
                    let since = *calm_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= care.calm {
                        return;
                    }
                }
                Some(Motion::Traced | Motion::Frozen) => calm_since = None,
                Some(Motion::Gone) | None => return,
            }
            if begun.elapsed() >= care.longest {
                tracing::warn!(
                    container_id = self.container_id,
                    seconds = care.longest.as_secs(),
                    ?motion,
                    "no longer looked after"
                );
                return;
            }
            tokio::time::sleep(care.interval).await;
        }
    }
}

impl std::fmt::Debug for Ward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ward").field("container_id", &self.container_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::*;

    /// Shows these motions, the last for ever; a thaw takes the frozen ones at the head away.
    struct Script {
        motions: Mutex<VecDeque<Motion>>,
        thaws: Mutex<usize>,
        looks: Mutex<usize>,
    }

    impl Freezer for Script {
        fn look(&self) -> BoxFuture<'_, Result<Motion, BoxError>> {
            *self.looks.lock().unwrap() += 1;
            let mut motions = self.motions.lock().unwrap();
            let motion = match motions.len() {
                1 => motions[0],
                _ => motions.pop_front().unwrap(),
            };
            Box::pin(async move { Ok(motion) })
        }

        fn thaw(&self) -> BoxFuture<'_, Result<(), BoxError>> {
            *self.thaws.lock().unwrap() += 1;
            Box::pin(async { Ok(()) })
        }
    }

    struct One(Arc<Script>);

    impl Thaw for One {
        fn freezer<'a>(
            &'a self,
            _container_id: &'a str,
            _pid: u32,
        ) -> BoxFuture<'a, Result<Arc<dyn Freezer>, BoxError>> {
            let freezer: Arc<dyn Freezer> = Arc::<Script>::clone(&self.0);
            Box::pin(async move { Ok(freezer) })
        }
    }

    fn script(motions: &[Motion]) -> Arc<Script> {
        Arc::new(Script {
            motions: Mutex::new(motions.iter().copied().collect()),
            thaws: Mutex::default(),
            looks: Mutex::default(),
        })
    }

    const CARE: Care = Care {
        interval: Duration::from_millis(1),
        calm: Duration::ZERO,
        longest: Duration::from_secs(60),
    };

    #[tokio::test]
    async fn a_container_paused_before_the_call_is_not_ours_to_thaw() {
        let paused = One(script(&[Motion::Frozen]));
        assert!(Ward::find(&paused, "c", 1).await.is_none());
        let gone = One(script(&[Motion::Gone]));
        assert!(Ward::find(&gone, "c", 1).await.is_none());
        let runs = One(script(&[Motion::Runs]));
        assert!(Ward::find(&runs, "c", 1).await.is_some());
        assert_eq!(*paused.0.thaws.lock().unwrap(), 0);
    }

    #[tokio::test]
    async fn a_container_is_looked_at_until_it_runs_untraced() {
        use Motion::{Frozen, Runs, Traced};
        let script = script(&[Runs, Frozen, Traced, Traced, Frozen, Runs]);
        let ward = Ward::find(&One(Arc::clone(&script)), "c", 1).await.unwrap();
        let mut first = 0;
        ward.watch(CARE, || first += 1).await;
        assert_eq!((*script.thaws.lock().unwrap(), *script.looks.lock().unwrap()), (2, 6));
        assert_eq!(first, 1);
    }

    #[tokio::test]
    async fn a_container_that_is_frozen_again_and_again_is_given_up_in_the_end() {
        let script = script(&[Motion::Runs, Motion::Frozen]);
        let ward = Ward::find(&One(Arc::clone(&script)), "c", 1).await.unwrap();
        let care = Care { longest: Duration::from_millis(20), ..CARE };
        ward.watch(care, || ()).await;
        assert!(*script.thaws.lock().unwrap() >= 1);
    }

    #[tokio::test]
    async fn a_container_that_ended_needs_nobody() {
        let script = script(&[Motion::Runs, Motion::Gone]);
        let ward = Ward::find(&One(Arc::clone(&script)), "c", 1).await.unwrap();
        let care = Care { calm: Duration::from_secs(60), ..CARE };
        ward.watch(care, || ()).await;
        assert_eq!(*script.thaws.lock().unwrap(), 0);
    }
}
