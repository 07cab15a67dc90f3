//! Asking again after a failure that may pass.

use std::time::Duration;

use super::ReviewError;

/// Pauses that grow: Kubernetes' numbers for its webhooks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The first pause.
    pub first: Duration,
    /// By what each next pause is longer.
    pub factor: f64,
    /// The part of a pause that is added at most, by chance, so that callers spread.
    pub jitter: f64,
    /// Attempts in all; at least one is made.
    pub steps: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(500), factor: 1.5, jitter: 0.2, steps: 5 }
    }
}

impl Backoff {
    /// Asks until there is an answer, the error is not transient, or the steps are used up. The
    /// last error counts. An API server that says when to come back is not asked earlier.
    ///
    /// # Errors
    /// What `ask` said last.
    pub async fn retry<T, F>(self, mut ask: impl FnMut() -> F) -> Result<T, ReviewError>
    where
        F: Future<Output = Result<T, ReviewError>>,
    {
        let mut pause = self.first;
        for step in 1.. {
            match ask().await {
                Err(error) if step < self.steps && error.is_transient() => {
                    let wait = pause.mul_f64(1.0 + self.jitter * chance());
                    let wait = wait.max(error.retry_after().unwrap_or_default());
                    tracing::debug!(
                        step,
                        wait_ms = wait.as_millis(),
                        error = &error as &dyn std::error::Error,
                        "asking again"
                    );
                    tokio::time::sleep(wait).await;
                    pause = pause.mul_f64(self.factor);
                }
                answer => return answer,
            }
        }
        unreachable!("the loop ends by itself only after u32::MAX steps")
    }
}

/// A number in 0..1; quality does not matter here.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    match rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()) {
        Ok(_) => f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn status(code: u16) -> ReviewError {
        ReviewError::Status { code, message: String::new(), retry_after: None }
    }

    /// How often a question is asked that always fails so, and how long it takes.
    async fn ask(error: impl Fn() -> ReviewError) -> (u32, Duration) {
        let start = Instant::now();
        let mut asked = 0;
        let answer: Result<(), _> = Backoff::default()
            .retry(|| {
                asked += 1;
                std::future::ready(Err(error()))
            })
            .await;
        assert!(answer.is_err());
        (asked, start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_asked_five_times_with_growing_pauses() {
        let reset = || ReviewError::Connection { reset: true, source: "reset".into() };
        let timed_out = || ReviewError::TimedOut { limit: Duration::from_secs(1) };
        let transient: [&dyn Fn() -> ReviewError; 5] =
            [&|| status(500), &|| status(504), &|| status(429), &reset, &timed_out];
        for error in transient {
            let (asked, took) = ask(error).await;
            assert_eq!(asked, 5);
            // 500 + 750 + 1125 + 1687.5 ms, and up to a fifth more.
            assert!(took >= Duration::from_micros(4_062_500), "{took:?}");
            assert!(took <= Duration::from_millis(4_880), "{took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_will_not_pass_is_asked_once() {
        for code in [400, 401, 403, 404, 503] {
            assert_eq!(ask(|| status(code)).await, (1, Duration::ZERO), "{code}");
        }
        let refused = || ReviewError::Connection { reset: false, source: "refused".into() };
        assert_eq!(ask(refused).await.0, 1);
        assert_eq!(ask(|| ReviewError::NoStatus).await.0, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_api_server_says_when_to_come_back() {
        let (asked, took) = ask(|| ReviewError::Status {
            code: 503,
            message: String::new(),
            retry_after: Some(Duration::from_secs(4)),
        })
        .await;
        assert_eq!((asked, took.as_secs()), (5, 16));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_ends_the_asking() {
        let mut asked = 0;
        let answer = Backoff::default()
            .retry(|| {
                asked += 1;
                std::future::ready(if asked < 3 { Err(status(500)) } else { Ok(asked) })
            })
            .await;
        assert_eq!(answer.unwrap(), 3);
    }
}
