//! Whose checkpoint runs: one per container, so many per node.
//!
//! A runtime has one working folder per container and stops the container itself: two calls for one
//! container collide. Calls for different containers do not, but each costs the node memory
//! bandwidth and disk, so their number is limited; the rest wait in the order they came. Who waits
//! holds nothing, and leaves the line by being dropped.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::checkpoint::Target;

/// Who checkpoints which container now. An entry lives as long as somebody holds or awaits it.
#[derive(Debug)]
pub(crate) struct Turns {
    queues: Mutex<HashMap<Target, Weak<AsyncMutex<()>>>>,
    places: Arc<Semaphore>,
}

/// The right to checkpoint one container.
pub(crate) type Turn = OwnedMutexGuard<()>;

/// One of the node's places.
pub(crate) type Place = OwnedSemaphorePermit;

/// Both, and whether they had to be waited for.
#[derive(Debug)]
pub(crate) struct Leave {
    pub(crate) turn: Turn,
    pub(crate) place: Place,
    /// What was known of the container before may be old.
    pub(crate) waited: bool,
}

impl Turns {
    /// `at_once` checkpoints at the same time.
    pub(crate) fn new(at_once: NonZeroUsize) -> Self {
        let places = at_once.get().min(Semaphore::MAX_PERMITS);
        Self { queues: Mutex::default(), places: Arc::new(Semaphore::new(places)) }
    }

    /// Waits for the container first, then for the node: who waits for a container takes no place
    /// away from another.
    pub(crate) async fn take(&self, target: &Target) -> Leave {
        let queue = self.queue(target);
        let mut waited = false;
        let turn = match Arc::clone(&queue).try_lock_owned() {
            Ok(turn) => turn,
            Err(_) => {
                waited = true;
                tracing::info!(%target, "waiting: the container is being checkpointed");
                queue.lock_owned().await
            }
        };
        let place = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                waited = true;
                tracing::info!(%target, "waiting: the node makes as many checkpoints as it may");
                let places = Arc::clone(&self.places);
                places.acquire_owned().await.expect("the semaphore is never closed")
            }
        };
        Leave { turn, place, waited }
    }

    fn queue(&self, target: &Target) -> Arc<AsyncMutex<()>> {
        // A map of weak pointers is whole after any panic.
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|_, queue| queue.strong_count() > 0);
        if let Some(queue) = queues.get(target).and_then(Weak::upgrade) {
            return queue;
        }
        let queue = Arc::new(AsyncMutex::new(()));
        queues.insert(target.clone(), Arc::downgrade(&queue));
        queue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::task::Poll;

    fn target(container: &str) -> Target {
        Target { namespace: "ns".into(), pod: "pod".into(), container: container.into() }
    }

    fn turns(at_once: usize) -> Turns {
        Turns::new(NonZeroUsize::new(at_once).unwrap())
    }

    async fn is_ready<F: Future + Unpin>(future: &mut F) -> bool {
        std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context).is_ready()))
            .await
    }

    #[tokio::test]
    async fn turns_are_per_container_and_leave_nothing_behind() {
        let turns = turns(9);
        let first = turns.take(&target("a")).await;
        let other = turns.take(&target("b")).await;
        assert!(!first.waited && !other.waited);
        let of_a = target("a");
        let mut second = Box::pin(turns.take(&of_a));
        assert!(!is_ready(&mut second).await);
        drop(first);
        assert!(second.await.waited);
        drop(other);
        drop(turns.take(&target("c")).await);
        assert_eq!(turns.queues.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn who_waits_for_a_container_takes_no_place_of_the_node() {
        let turns = turns(2);
        let _first = turns.take(&target("a")).await;
        let of_a = target("a");
        let mut waiting = Box::pin(turns.take(&of_a));
        assert!(!is_ready(&mut waiting).await);
        assert!(!turns.take(&target("b")).await.waited);
    }

    #[tokio::test]
    async fn the_node_has_so_many_places_and_a_waiter_that_leaves_frees_its_container() {
        let turns = turns(1);
        let first = turns.take(&target("a")).await;
        let (of_b, of_c) = (target("b"), target("c"));
        let mut leaves = Box::pin(turns.take(&of_b));
        let mut stays = Box::pin(turns.take(&of_c));
        assert!(!is_ready(&mut leaves).await);
        assert!(!is_ready(&mut stays).await);
        drop(leaves);
        drop(first);
        assert!(stays.await.waited);
        assert!(!turns.take(&of_b).await.waited);
    }
}
