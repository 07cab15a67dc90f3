//! What a user may do, decided by the API server: SubjectAccessReview.
//!
//! Answers are kept by the whole question (user, uid, groups, extra and attributes), allowed ones
//! longer than refused ones. A question whose attributes a caller could blow up is asked each
//! time instead. Whatever goes wrong is an error (500), never a decision.
//!
//! Beyond the kubelet: equal questions are asked once at a time, one question takes at most
//! [`WebhookOptions::limit`] (the kubelet waits as long as its caller does), and an answer that
//! allows and denies is never kept.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};

use super::{Attributes, Authorizer, Decision, cure};
use crate::apiserver::answers::{Answer, Answers, Keeping};
use crate::apiserver::{Backoff, REVIEW_LIMIT, ReviewError, Reviews};
use crate::{BoxError, BoxFuture};

/// From this size on the attributes that a caller chooses are not kept, in bytes.
const KEPT_BYTES: usize = 10_000;

/// How access is decided.
#[derive(Clone, Copy, Debug)]
pub struct WebhookOptions {
    /// `authorization.webhook.cacheAuthorizedTTL`: how long "allowed" holds.
    pub allowed_ttl: Duration,
    /// `authorization.webhook.cacheUnauthorizedTTL`: how long anything else holds.
    pub denied_ttl: Duration,
    /// Answers kept of each kind, the least recently used going first.
    pub capacity: NonZeroUsize,
    /// SubjectAccessReviews under way at once.
    pub at_once: usize,
    /// For one answer in all.
    pub limit: Duration,
    /// After failures that may pass.
    pub backoff: Backoff,
}

impl Default for WebhookOptions {
    /// The kubelet's: five minutes, 30 seconds, 8,192 answers; and 64 questions at once, 30
    /// seconds in all.
    fn default() -> Self {
        Self {
            allowed_ttl: Duration::from_secs(300),
            denied_ttl: Duration::from_secs(30),
            capacity: NonZeroUsize::new(8192).unwrap_or(NonZeroUsize::MIN),
            at_once: 64,
            limit: REVIEW_LIMIT,
            backoff: Backoff::default(),
        }
    }
}

/// The authorizer.
#[derive(Clone)]
pub struct Webhook {
    reviews: Arc<dyn Reviews>,
    options: WebhookOptions,
    answers: Arc<Answers<Decision>>,
}

impl Answer for Decision {
    fn is_good(&self) -> bool {
        *self == Self::Allow
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Webhook {
    /// Decides by `reviews`.
    pub fn new(reviews: Arc<dyn Reviews>, options: WebhookOptions) -> Self {
        let answers = Answers::new(Keeping {
            good: options.allowed_ttl,
            bad: options.denied_ttl,
            capacity: options.capacity,
            at_once: options.at_once,
            limit: options.limit,
        });
        Self { reviews, options, answers: Arc::new(answers) }
    }

    /// How many answers are kept now: at most twice [`WebhookOptions::capacity`].
    pub fn kept(&self) -> usize {
        self.answers.len()
    }

    async fn decide(&self, attributes: &Attributes) -> Result<Decision, Arc<ReviewError>> {
        let spec = spec(attributes);
        // Its fields are in order, so one question has one text.
        let question = serde_json::to_vec(&spec)
            .map_err(|error| Arc::new(ReviewError::Request(error.into())))?;
        let (reviews, backoff) = (Arc::clone(&self.reviews), self.options.backoff);
        let ask = || async move {
            let attempt = || {
                let (reviews, spec) = (Arc::clone(&reviews), spec.clone());
                async move { reviews.access(spec).await }
            };
            decision(&backoff.retry(attempt).await?)
        };
        if size(attributes) < KEPT_BYTES {
            return self.answers.get(&question, ask).await;
        }
        let limit = self.options.limit;
        match tokio::time::timeout(limit, ask()).await {
            Ok(decision) => decision.map_err(Arc::new),
            Err(_) => Err(Arc::new(ReviewError::TimedOut { limit })),
        }
    }
}

impl Authorizer for Webhook {
    fn authorize<'a>(
        &'a self,
        attributes: &'a Attributes,
    ) -> BoxFuture<'a, Result<Decision, BoxError>> {
        Box::pin(async move { self.decide(attributes).await.map_err(BoxError::from) })
    }

    fn cure(&self, attributes: &Attributes) -> Option<String> {
        Some(cure::rbac(attributes))
    }
}

/// The question. What is empty is left out.
fn spec(attributes: &Attributes) -> SubjectAccessReviewSpec {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let user = &attributes.user;
    let mut spec = SubjectAccessReviewSpec {
        user: some(&user.name),
        uid: some(&user.uid),
        groups: (!user.groups.is_empty()).then(|| user.groups.clone()),
        extra: (!user.extra.is_empty()).then(|| user.extra.clone()),
        ..SubjectAccessReviewSpec::default()
    };
    if attributes.resource_request {
        spec.resource_attributes = Some(ResourceAttributes {
            verb: some(attributes.verb),
            group: some(attributes.api_group),
            version: some(attributes.api_version),
            resource: some(attributes.resource),
            subresource: some(attributes.subresource),
            name: some(&attributes.name),
            namespace: some(&attributes.namespace),
            ..ResourceAttributes::default()
        });
    } else {
        spec.non_resource_attributes = Some(NonResourceAttributes {
            path: some(&attributes.path),
            verb: some(attributes.verb),
        });
    }
    spec
}

/// Of what a caller chooses, in bytes.
fn size(attributes: &Attributes) -> usize {
    [
        attributes.verb,
        attributes.api_group,
        attributes.api_version,
        attributes.resource,
        attributes.subresource,
        &attributes.name,
        &attributes.namespace,
        &attributes.path,
    ]
    .iter()
    .map(|text| text.len())
    .sum()
}

/// What a review says.
fn decision(status: &SubjectAccessReviewStatus) -> Result<Decision, ReviewError> {
    if let Some(error) = status.evaluation_error.as_deref().filter(|error| !error.is_empty()) {
        tracing::debug!(error, "access review evaluated in part only");
    }
    match (status.allowed, status.denied.unwrap_or(false)) {
        (true, true) => Err(ReviewError::Contradiction),
        (true, false) => Ok(Decision::Allow),
        (false, true) => Ok(Decision::Deny),
        (false, false) => Ok(Decision::NoOpinion),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use k8s_openapi::api::authentication::v1::TokenReviewStatus;
    use serde_json::json;

    use super::*;
    use crate::authn::{Credential, User};

    /// An API server played by the test.
    struct Played {
        answer: Mutex<Box<dyn FnMut() -> Result<SubjectAccessReviewStatus, ReviewError> + Send>>,
        asked: Mutex<Vec<SubjectAccessReviewSpec>>,
    }

    impl Reviews for Played {
        fn token(&self, _token: String) -> BoxFuture<'_, Result<TokenReviewStatus, ReviewError>> {
            unreachable!("access is decided without")
        }

        fn access(
            &self,
            spec: SubjectAccessReviewSpec,
        ) -> BoxFuture<'_, Result<SubjectAccessReviewStatus, ReviewError>> {
            self.asked.lock().unwrap().push(spec);
            let answer = (self.answer.lock().unwrap())();
            Box::pin(async { answer })
        }
    }

    fn played(
        answer: impl FnMut() -> Result<SubjectAccessReviewStatus, ReviewError> + Send + 'static,
    ) -> (Arc<Played>, Webhook) {
        let answer = Mutex::new(Box::new(answer) as Box<_>);
        let played = Arc::new(Played { answer, asked: Mutex::default() });
        (Arc::clone(&played), Webhook::new(played, WebhookOptions::default()))
    }

    fn status(allowed: bool, denied: Option<bool>) -> SubjectAccessReviewStatus {
        SubjectAccessReviewStatus { allowed, denied, ..SubjectAccessReviewStatus::default() }
    }

    fn attributes(name: &str) -> Attributes {
        Attributes {
            user: User {
                name: name.to_owned(),
                credential: Credential::Token,
                ..User::anonymous()
            },
            verb: "create",
            api_group: "",
            api_version: "v1",
            resource: "nodes",
            subresource: "checkpoint",
            name: "node-1".to_owned(),
            namespace: String::new(),
            resource_request: true,
            path: "/checkpoint/a/b/c".to_owned(),
        }
    }

    #[tokio::test]
    async fn the_question_is_the_user_and_the_attributes_without_the_path() {
        let (played, webhook) = played(|| Ok(status(true, None)));
        let mut attributes = attributes("alice");
        attributes.user.uid = "u-1".to_owned();
        attributes.user.groups = vec!["dev".to_owned()];
        attributes.user.extra = BTreeMap::from([("k".to_owned(), vec!["v".to_owned()])]);
        assert_eq!(webhook.authorize(&attributes).await.unwrap(), Decision::Allow);
        let asked = serde_json::to_value(&played.asked.lock().unwrap()[0]).unwrap();
        let expected = json!({
            "user": "alice", "uid": "u-1", "groups": ["dev"], "extra": {"k": ["v"]},
            "resourceAttributes": {
                "verb": "create", "version": "v1", "resource": "nodes",
                "subresource": "checkpoint", "name": "node-1",
            },
        });
        assert_eq!(asked, expected);
        let bare = Attributes { resource_request: false, ..attributes };
        webhook.authorize(&bare).await.unwrap();
        let asked = serde_json::to_value(&played.asked.lock().unwrap()[1]).unwrap();
        let path = json!({"path": "/checkpoint/a/b/c", "verb": "create"});
        assert_eq!(asked["nonResourceAttributes"], path);
        assert!(asked.get("resourceAttributes").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn allowed_holds_for_five_minutes_and_everything_else_for_30_seconds() {
        for (allowed, denied, decision, seconds) in [
            (true, None, Decision::Allow, 300),
            (true, Some(false), Decision::Allow, 300),
            (false, Some(true), Decision::Deny, 30),
            (false, None, Decision::NoOpinion, 30),
        ] {
            let (played, webhook) = played(move || Ok(status(allowed, denied)));
            let attributes = attributes("alice");
            let ask = async || webhook.authorize(&attributes).await.unwrap();
            assert_eq!((ask().await, ask().await), (decision, decision));
            tokio::time::advance(Duration::from_millis(seconds * 1000 - 1)).await;
            assert_eq!(ask().await, decision);
            assert_eq!(played.asked.lock().unwrap().len(), 1, "{decision:?}");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert_eq!(ask().await, decision);
            assert_eq!(played.asked.lock().unwrap().len(), 2, "{decision:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_is_for_one_user_with_all_that_is_known_of_them() {
        let (played, webhook) = played(|| Ok(status(true, None)));
        let alice = attributes("alice");
        let mut others = vec![attributes("bob"), alice.clone(), alice.clone(), alice.clone()];
        others[1].user.groups.push("more".to_owned());
        others[2].user.uid = "2".to_owned();
        others[3].user.extra.insert("k".to_owned(), vec![]);
        others.push(Attributes { verb: "get", ..alice.clone() });
        others.push(Attributes { name: "node-2".to_owned(), ..alice.clone() });
        for attributes in std::iter::once(&alice).chain(&others) {
            for _ in 0..2 {
                webhook.authorize(attributes).await.unwrap();
            }
        }
        assert_eq!(played.asked.lock().unwrap().len(), 1 + others.len());
        // Another pod of this node is the same question.
        let path = "/checkpoint/x/y/z".to_owned();
        webhook.authorize(&Attributes { path, ..alice }).await.unwrap();
        assert_eq!(played.asked.lock().unwrap().len(), 1 + others.len());
    }

    #[tokio::test]
    async fn what_a_caller_can_blow_up_is_not_kept() {
        let (played, webhook) = played(|| Ok(status(true, None)));
        let mut attributes = attributes("alice");
        attributes.path.clear();
        let rest = KEPT_BYTES - size(&attributes);
        for (bytes, asked) in [(rest - 1, 1), (rest, 3)] {
            attributes.path = "x".repeat(bytes);
            for _ in 0..2 {
                assert_eq!(webhook.authorize(&attributes).await.unwrap(), Decision::Allow);
            }
            assert_eq!(played.asked.lock().unwrap().len(), asked);
        }
        assert_eq!(webhook.kept(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn errors_are_no_decision_and_are_not_kept() {
        let mut broken = true;
        let (played, webhook) = played(move || {
            if std::mem::take(&mut broken) {
                Err(ReviewError::NoStatus)
            } else {
                Ok(status(true, None))
            }
        });
        let attributes = attributes("alice");
        let error = webhook.authorize(&attributes).await.unwrap_err();
        assert_eq!(error.to_string(), "the API server's answer has no status");
        assert_eq!(webhook.authorize(&attributes).await.unwrap(), Decision::Allow);
        assert_eq!(played.asked.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn an_answer_that_allows_and_denies_is_an_error_each_time() {
        let (played, webhook) = played(|| Ok(status(true, Some(true))));
        for asked in 1..=2 {
            let error = webhook.authorize(&attributes("alice")).await.unwrap_err();
            assert_eq!(error.to_string(), "the API server both allowed and denied");
            assert_eq!(played.asked.lock().unwrap().len(), asked);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_that_may_pass_are_asked_again_four_times() {
        let reset = || ReviewError::Connection { reset: true, source: "reset".into() };
        let mut left = 4;
        let (asked, webhook) = played(move || {
            left -= 1;
            if left >= 0 { Err(reset()) } else { Ok(status(true, None)) }
        });
        assert_eq!(webhook.authorize(&attributes("alice")).await.unwrap(), Decision::Allow);
        assert_eq!(asked.asked.lock().unwrap().len(), 5);
        let (asked, webhook) = played(move || Err(reset()));
        assert!(webhook.authorize(&attributes("alice")).await.is_err());
        assert_eq!(asked.asked.lock().unwrap().len(), 5);
    }
}
