//! Places for connections. When all are taken, a new connection takes the place of the one that
//! has done the least for the longest: first those still in the handshake, then those that never
//! asked for anything, then those between two requests. A request under way is never given up, so
//! a flood of connections that do nothing keeps nobody out.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Limits;
use crate::BoxError;
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
    streaming: usize,
    since: Instant,
    leaving: bool,
}

impl State {
    /// Nothing is asked for, nothing on its way.
    fn is_idle(self) -> bool {
        self.running == 0 && self.streaming == 0
    }
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
        let mut least: Option<(Stage, Instant, &Seat)> = None;
        for seat in taken.seats.values() {
            let state = *lock(&seat.state);
            if state.leaving {
                return;
            }
            let less =
                least.is_none_or(|(stage, since, _)| (state.stage, state.since) < (stage, since));
            if state.is_idle() && less {
                least = Some((state.stage, state.since, seat));
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
            if state.is_idle() {
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
                streaming: 0,
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

    /// Whether an answer is on its way.
    pub(super) fn is_streaming(&self) -> bool {
        lock(&self.state).streaming > 0
    }

    fn touch(&self) {
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

/// A request without an answer.
#[derive(Debug)]
pub(super) struct Running(Arc<Seat>);

impl Running {
    /// The answer is there and begins to be sent.
    pub(super) fn stream(self, body: Body) -> Streaming {
        lock(&self.0.state).streaming += 1;
        Streaming { body, seat: Arc::clone(&self.0) }
    }
}

/// An answer on its way: every piece that the client takes is a sign of life.
#[derive(Debug)]
pub(super) struct Streaming {
    body: Body,
    seat: Arc<Seat>,
}

impl hyper::body::Body for Streaming {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_ready() {
            self.seat.touch();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        let mut state = lock(&self.seat.state);
        state.streaming -= 1;
        state.since = Instant::now();
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
        let places = Places::new(4);
        let second = Duration::from_secs(1);
        let asked = places.take().await;
        drop(asked.seat().begin());
        tokio::time::advance(second).await;
        let silent = places.take().await;
        silent.seat().shook_hands();
        tokio::time::advance(second).await;
        let older = places.take().await;
        tokio::time::advance(second).await;
        let younger = places.take().await;
        for next in [older, younger, silent, asked] {
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
