//! Answers kept for a while, and each question asked once at a time.
//!
//! A question that is being asked is joined by everybody else who has it; the asking is a task
//! of its own, so that a caller who goes away takes nothing from the others. Answers are kept on
//! two shelves of bounded size, good and bad ones apart, so that no flood of bad questions drives
//! a good answer out. Errors are never kept. Questions are known by a keyed hash only: what was
//! asked (a token) cannot be read out of the memory, nor can anybody aim at another's place.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::ReviewError;

type Key = [u8; 32];
type Outcome<V> = Result<V, Arc<ReviewError>>;

/// How answers are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keeping {
    /// How long a good answer holds; zero: not kept.
    pub(crate) good: Duration,
    /// How long a bad one does.
    pub(crate) bad: Duration,
    /// Answers on each of the two shelves.
    pub(crate) capacity: NonZeroUsize,
    /// Questions that are asked at once; more wait.
    pub(crate) at_once: usize,
    /// For the wait and the asking together.
    pub(crate) limit: Duration,
}

/// What can be kept.
pub(crate) trait Answer: Clone + Send + Sync + 'static {
    /// Which of the two times holds.
    fn is_good(&self) -> bool;
}

/// The cache.
pub(crate) struct Answers<V> {
    shared: Arc<Shared<V>>,
}

struct Shared<V> {
    secret: Key,
    keeping: Keeping,
    places: Arc<Semaphore>,
    state: Mutex<State<V>>,
}

struct State<V> {
    good: LruCache<Key, Kept<V>>,
    bad: LruCache<Key, Kept<V>>,
    /// What is being asked. A sender that is gone without a value means that the task died.
    asked: HashMap<Key, watch::Receiver<Option<Outcome<V>>>>,
}

struct Kept<V> {
    answer: V,
    until: Instant,
}

/// What a question meets.
enum Found<V> {
    Kept(V),
    Asked(watch::Receiver<Option<Outcome<V>>>),
    Nothing,
}

impl<V> fmt::Debug for Answers<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").field("keeping", &self.shared.keeping).finish_non_exhaustive()
    }
}

impl<V: Answer> Answers<V> {
    pub(crate) fn new(keeping: Keeping) -> Self {
        let state = State {
            good: LruCache::new(keeping.capacity),
            bad: LruCache::new(keeping.capacity),
            asked: HashMap::new(),
        };
        let places = Arc::new(Semaphore::new(keeping.at_once.max(1)));
        let shared = Shared { secret: secret(), keeping, places, state: Mutex::new(state) };
        Self { shared: Arc::new(shared) }
    }

    /// How many answers are kept now, those that no longer hold included.
    pub(crate) fn len(&self) -> usize {
        let state = self.shared.lock();
        state.good.len() + state.bad.len()
    }

    /// The answer to `question`: kept, being asked for, or asked for now by what `ask` makes.
    ///
    /// # Errors
    /// What the asking met, shared by all who waited; [`ReviewError::TimedOut`] by the limit.
    pub(crate) async fn get<F>(&self, question: &[u8], ask: impl FnOnce() -> F) -> Outcome<V>
    where
        F: Future<Output = Result<V, ReviewError>> + Send + 'static,
    {
        let limit = self.shared.keeping.limit;
        match tokio::time::timeout(limit, self.find(question, ask)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Arc::new(ReviewError::TimedOut { limit })),
        }
    }

    async fn find<F>(&self, question: &[u8], ask: impl FnOnce() -> F) -> Outcome<V>
    where
        F: Future<Output = Result<V, ReviewError>> + Send + 'static,
    {
        let key = *blake3::keyed_hash(&self.shared.secret, question).as_bytes();
        let found = self.shared.lock().look(&key);
        let mut asked = match found {
            Found::Kept(answer) => return Ok(answer),
            Found::Asked(asked) => asked,
            Found::Nothing => {
                // Waited for here and not in the task: who goes away leaves the queue.
                let place = Arc::clone(&self.shared.places).acquire_owned().await;
                match self.start(key, ask, place.expect("the semaphore is never closed")) {
                    Ok(asked) => asked,
                    Err(answer) => return Ok(answer),
                }
            }
        };
        match asked.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            _ => Err(Arc::new(ReviewError::Abandoned)),
        }
    }

    /// Asks, unless somebody else did so meanwhile.
    fn start<F>(
        &self,
        key: Key,
        ask: impl FnOnce() -> F,
        place: OwnedSemaphorePermit,
    ) -> Result<watch::Receiver<Option<Outcome<V>>>, V>
    where
        F: Future<Output = Result<V, ReviewError>> + Send + 'static,
    {
        let mut state = self.shared.lock();
        match state.look(&key) {
            Found::Kept(answer) => return Err(answer),
            Found::Asked(asked) => return Ok(asked),
            Found::Nothing => {}
        }
        let (tell, asked) = watch::channel(None);
        state.asked.insert(key, asked.clone());
        drop(state);
        let question = Question { shared: Arc::clone(&self.shared), key };
        let limit = self.shared.keeping.limit;
        let ask = ask();
        tokio::spawn(async move {
            let outcome = match tokio::time::timeout(limit, ask).await {
                Ok(outcome) => outcome.map_err(Arc::new),
                Err(_) => Err(Arc::new(ReviewError::TimedOut { limit })),
            };
            if let Ok(answer) = &outcome {
                question.keep(answer);
            }
            drop(question);
            drop(place);
            tell.send_replace(Some(outcome));
        });
        Ok(asked)
    }
}

impl<V> Shared<V> {
    fn lock(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: Clone> State<V> {
    fn look(&mut self, key: &Key) -> Found<V> {
        let now = Instant::now();
        for shelf in [&mut self.good, &mut self.bad] {
            match shelf.get(key) {
                Some(kept) if kept.until > now => return Found::Kept(kept.answer.clone()),
                Some(_) => drop(shelf.pop(key)),
                None => {}
            }
        }
        match self.asked.get(key) {
            Some(asked) => Found::Asked(asked.clone()),
            None => Found::Nothing,
        }
    }
}

/// A question that is being asked; no longer when this is dropped, however the task ends.
struct Question<V> {
    shared: Arc<Shared<V>>,
    key: Key,
}

impl<V: Answer> Question<V> {
    fn keep(&self, answer: &V) {
        let keeping = &self.shared.keeping;
        let good = answer.is_good();
        let time = if good { keeping.good } else { keeping.bad };
        if time.is_zero() {
            return;
        }
        // A time beyond all clocks is as good as one of a century.
        let century = Duration::from_secs(100 * 365 * 86_400);
        let kept = Kept { answer: answer.clone(), until: Instant::now() + time.min(century) };
        let mut state = self.shared.lock();
        let shelf = if good { &mut state.good } else { &mut state.bad };
        shelf.put(self.key, kept);
    }
}

impl<V> Drop for Question<V> {
    fn drop(&mut self) {
        self.shared.lock().asked.remove(&self.key);
    }
}

/// A key nobody knows.
fn secret() -> Key {
    let mut secret = Key::default();
    let mut filled = 0;
    while filled < secret.len() {
        let rest = &mut secret[filled..];
        match rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            // getrandom(2): nothing else can happen to a small buffer on Linux >= 3.17.
            Err(error) => panic!("the kernel gives no random bytes: {error}"),
        }
    }
    secret
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    impl Answer for i32 {
        fn is_good(&self) -> bool {
            *self > 0
        }
    }

    const GOOD: Duration = Duration::from_secs(120);
    const BAD: Duration = Duration::from_secs(30);

    fn answers(capacity: usize, at_once: usize) -> Answers<i32> {
        Answers::new(Keeping {
            good: GOOD,
            bad: BAD,
            capacity: NonZeroUsize::new(capacity).unwrap(),
            at_once,
            limit: Duration::from_secs(30),
        })
    }

    async fn get(answers: &Answers<i32>, question: &str, answer: i32) -> i32 {
        answers.get(question.as_bytes(), || async move { Ok(answer) }).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn answers_hold_for_their_time_and_no_longer() {
        let answers = answers(8, 8);
        assert_eq!(get(&answers, "good", 1).await, 1);
        assert_eq!(get(&answers, "bad", -1).await, -1);
        tokio::time::advance(BAD - Duration::from_millis(1)).await;
        assert_eq!(get(&answers, "bad", 2).await, -1);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(get(&answers, "bad", 2).await, 2);
        tokio::time::advance(GOOD - BAD - Duration::from_millis(1)).await;
        assert_eq!(get(&answers, "good", 3).await, 1);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(get(&answers, "good", 3).await, 3);
    }

    #[tokio::test]
    async fn answers_whose_time_is_zero_are_not_kept() {
        let answers = Answers::new(Keeping {
            good: Duration::ZERO,
            bad: Duration::ZERO,
            capacity: NonZeroUsize::MIN,
            at_once: 1,
            limit: GOOD,
        });
        assert_eq!(get(&answers, "a", 1).await, 1);
        assert_eq!(get(&answers, "a", -2).await, -2);
        assert_eq!((get(&answers, "a", 3).await, answers.len()), (3, 0));
    }

    #[tokio::test]
    async fn errors_are_told_and_not_kept() {
        let answers = answers(8, 8);
        let failed = answers.get(b"a", || async { Err(ReviewError::NoStatus) }).await;
        assert!(matches!(*failed.unwrap_err(), ReviewError::NoStatus));
        assert_eq!((get(&answers, "a", 1).await, answers.len()), (1, 1));
    }

    #[tokio::test]
    async fn a_flood_of_bad_answers_is_bounded_and_drives_no_good_one_out() {
        let answers = answers(4, 8);
        for good in 0..4 {
            get(&answers, &format!("good {good}"), 1).await;
        }
        for bad in 0..1000 {
            get(&answers, &format!("bad {bad}"), -1).await;
        }
        assert_eq!(answers.len(), 8);
        for good in 0..4 {
            assert_eq!(get(&answers, &format!("good {good}"), 2).await, 1);
        }
        assert_eq!(get(&answers, "bad 999", 5).await, -1);
        assert_eq!(get(&answers, "bad 0", 5).await, 5);
    }

    #[tokio::test]
    async fn one_question_is_asked_once_and_a_caller_who_leaves_takes_nothing_along() {
        let answers = Arc::new(answers(8, 8));
        let asked = Arc::new(AtomicUsize::new(0));
        let go = Arc::new(Notify::new());
        let caller = || {
            let (answers, asked, go) = (Arc::clone(&answers), Arc::clone(&asked), Arc::clone(&go));
            tokio::spawn(async move {
                let ask = || async move {
                    asked.fetch_add(1, Ordering::Relaxed);
                    go.notified().await;
                    Ok(7)
                };
                answers.get(b"same", ask).await.unwrap()
            })
        };
        let first = caller();
        while asked.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let others: Vec<_> = (0..20).map(|_| caller()).collect();
        tokio::task::yield_now().await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        go.notify_one();
        for other in others {
            assert_eq!(other.await.unwrap(), 7);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert_eq!(get(&answers, "same", 8).await, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_wait_for_one_answer_are_told_when_the_limit_is_over() {
        let answers = answers(8, 8);
        let never = || std::future::pending::<Result<i32, ReviewError>>();
        let (first, second) = tokio::join!(answers.get(b"a", never), answers.get(b"a", never));
        for outcome in [first, second] {
            assert!(matches!(*outcome.unwrap_err(), ReviewError::TimedOut { .. }));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        // The question is free again.
        assert_eq!(get(&answers, "a", 1).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn questions_wait_for_a_place_within_the_limit() {
        let answers = answers(8, 1);
        let slow = || async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            Ok(1)
        };
        let (first, second, third) =
            tokio::join!(answers.get(b"a", slow), answers.get(b"b", slow), answers.get(b"a", slow));
        assert_eq!((first.unwrap(), third.unwrap()), (1, 1));
        assert!(matches!(*second.unwrap_err(), ReviewError::TimedOut { .. }));
    }

    #[tokio::test]
    async fn a_task_that_dies_is_told_and_the_question_is_free_again() {
        let answers = answers(8, 8);
        let dies = || async { Err(ReviewError::NoStatus).map_err(|_| panic!("on purpose")) };
        let outcome = answers.get(b"a", dies).await;
        assert!(matches!(*outcome.unwrap_err(), ReviewError::Abandoned));
        assert_eq!(get(&answers, "a", 1).await, 1);
    }

    #[tokio::test]
    async fn what_was_asked_is_not_in_the_key() {
        let answers = answers(8, 8);
        get(&answers, "secret", 1).await;
        let other = Answers::<i32>::new(answers.shared.keeping);
        assert_ne!(answers.shared.secret, other.shared.secret);
        let key = *answers.shared.lock().good.iter().next().unwrap().0;
        assert_eq!(key, *blake3::keyed_hash(&answers.shared.secret, b"secret").as_bytes());
        assert_ne!(key, *blake3::hash(b"secret").as_bytes());
    }
}
