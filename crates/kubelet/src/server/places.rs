//! Places for connections. When all are taken, a new connection takes the place of the one that
//! has done the least for the longest: first those still in the handshake, then those that never
//! asked for anything, then those between two requests, then those that take an answer slowly. A
//! request under way is never given up, so a flood of connections that do nothing keeps nobody out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Limits;
use super::sending::Sending;
use crate::reply::Body;

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    limit: usize,
    taken: Mutex<Taken>,
    /// A place became free, or one that was asked to leave does not.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    seats: BTreeMap<u64, Arc<Seat>>,
}

/// A connection's place, free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    seat: Arc<Seat>,
}

/// What a connection does, and since when.
#[derive(Debug)]
pub(super) struct Seat {
    state: Mutex<State>,
    asked_to_leave: Notify,
}

#[derive(Clone, Copy, Debug)]
struct State {
    stage: Stage,
    /// Requests without an answer.
    running: usize,
    /// Answers that are not sent whole.
    sending: usize,
    since: Instant,
    leaving: bool,
}

/// How far a connection has come: the least is given up first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Handshake,
    Silent,
    Asked,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Places {
    /// At least one.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit: limit.max(1), taken: Mutex::default(), changed: Notify::new() })
    }

    /// A place, as soon as there is one.
    pub(super) async fn take(self: &Arc<Self>) -> Place {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(place) = self.try_take() {
                return place;
            }
            self.give_up_one();
            changed.await;
        }
    }

    fn try_take(self: &Arc<Self>) -> Option<Place> {
        let mut taken = lock(&self.taken);
        if taken.seats.len() >= self.limit {
            return None;
        }
        let number = taken.next;
        taken.next += 1;
        let seat = Arc::new(Seat::new());
        taken.seats.insert(number, Arc::clone(&seat));
        Some(Place { places: Arc::clone(self), number, seat })
    }

    /// Asks the connection that has done the least for the longest to leave; none, when all are
    /// busy, or when one is on its way out already.
    pub(super) fn give_up_one(&self) {
        let taken = lock(&self.taken);
        let mut least: Option<((Stage, bool), Instant, &Seat)> = None;
        for seat in taken.seats.values() {
            let state = *lock(&seat.state);
            if state.leaving {
                return;
            }
            let less =
                least.is_none_or(|(stage, since, _)| (state.rank(), state.since) < (stage, since));
            if state.running == 0 && less {
                least = Some((state.rank(), state.since, seat));
            }
        }
        if let Some((_, _, seat)) = least {
            lock(&seat.state).leaving = true;
            seat.asked_to_leave.notify_one();
        }
    }
}

impl Place {
    /// What the connection does.
    pub(super) fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }

    /// Waits until the connection is to leave.
    pub(super) async fn must_leave(&self) {
        loop {
            self.seat.asked_to_leave.notified().await;
            let mut state = lock(&self.seat.state);
            if state.running == 0 {
                return;
            }
            // A request came in the meantime: another has to go.
            state.leaving = false;
            drop(state);
            self.places.changed.notify_one();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.places.taken).seats.remove(&self.number);
        self.places.changed.notify_one();
    }
}

impl Seat {
    fn new() -> Self {
        Self {
            state: Mutex::new(State {
                stage: Stage::Handshake,
                running: 0,
                sending: 0,
                since: Instant::now(),
                leaving: false,
            }),
            asked_to_leave: Notify::new(),
        }
    }

    /// The handshake is done.
    pub(super) fn shook_hands(&self) {
        let mut state = lock(&self.state);
        state.stage = Stage::Silent;
        state.since = Instant::now();
    }

    /// A request begins, and ends when the result is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Running {
        let mut state = lock(&self.state);
        state.stage = Stage::Asked;
        state.running += 1;
        Running(Arc::clone(self))
    }

    pub(super) fn is_busy(&self) -> bool {
        lock(&self.state).running > 0
    }

    pub(super) fn is_sending(&self) -> bool {
        lock(&self.state).sending > 0
    }

    pub(super) fn begin_sending(&self) {
        lock(&self.state).sending += 1;
    }

    pub(super) fn end_sending(&self) {
        lock(&self.state).sending -= 1;
        self.touch();
    }

    /// It does something.
    pub(super) fn touch(&self) {
        lock(&self.state).since = Instant::now();
    }

    /// Whether there was ever a request.
    pub(super) fn has_asked(&self) -> bool {
        lock(&self.state).stage == Stage::Asked
    }

    /// When the connection will have been idle for too long, if nothing happens.
    pub(super) fn idle_end(&self, limits: &Limits) -> Instant {
        let state = *lock(&self.state);
        let patience: Duration = match state.stage {
            Stage::Asked => limits.idle,
            Stage::Handshake | Stage::Silent => limits.first_request,
        };
        let since = if state.running > 0 { Instant::now() } else { state.since };
        since + patience
    }
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Running(Arc<Seat>);

impl State {
    /// The least is given up first.
    fn rank(&self) -> (Stage, bool) {
        (self.stage, self.sending > 0)
    }
}

impl Running {
    /// The answer is there and begins to be sent.
    pub(super) fn send(self, body: Body) -> Sending {
        Sending::new(body, Arc::clone(&self.0))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.running -= 1;
        state.since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a place is asked to leave, without waiting.
    async fn leaves(place: &Place) -> bool {
        tokio::select! {
            biased;
            () = place.must_leave() => true,
            () = tokio::task::yield_now() => false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_done_the_least_for_the_longest_is_given_up_first() {
        let places = Places::new(5);
        let second = Duration::from_secs(1);
        let slow = places.take().await;
        drop(slow.seat().begin());
        slow.seat().begin_sending();
        tokio::time::advance(second).await;
        let asked = places.take().await;
        drop(asked.seat().begin());
        tokio::time::advance(second).await;
        let silent = places.take().await;
        silent.seat().shook_hands();
        tokio::time::advance(second).await;
        let older = places.take().await;
        tokio::time::advance(second).await;
        let younger = places.take().await;
        for next in [older, younger, silent, asked, slow] {
            places.give_up_one();
            // One at a time.
            places.give_up_one();
            assert!(leaves(&next).await);
            drop(next);
        }
        places.give_up_one();
    }

    #[tokio::test]
    async fn a_request_under_way_is_never_given_up() {
        let places = Places::new(1);
        let place = places.take().await;
        let running = place.seat().begin();
        let waiting = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.take().await.number }
        });
        tokio::task::yield_now().await;
        assert!(!leaves(&place).await);
        assert!(!waiting.is_finished());
        drop((running, place));
        assert_eq!(waiting.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_request_that_came_in_the_last_moment_stays_and_another_goes() {
        let places = Places::new(2);
        let first = places.take().await;
        let second = places.take().await;
        let waiting = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.take().await.number }
        });
        while !lock(&first.seat.state).leaving {
            tokio::task::yield_now().await;
        }
        let running = first.seat().begin();
        assert!(!leaves(&first).await);
        while !lock(&second.seat.state).leaving {
            tokio::task::yield_now().await;
        }
        assert!(leaves(&second).await);
        drop(second);
        assert_eq!(waiting.await.unwrap(), 2);
        drop(running);
    }
}
