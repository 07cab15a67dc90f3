//! Bearer tokens, judged by the API server: TokenReview without audiences.
//!
//! A token comes in the `Authorization` header or, from a browser's websocket, which cannot set
//! that header, as one of the subprotocols it offers. Both are tried; the first that is good
//! wins. A token that nobody knows is a failure (and so never an anonymous caller); so is one
//! that could not be checked. Only the answers "known" and "unknown" are kept, each for
//! [`TokenOptions::ttl`]; a revoked token works until then, as with the kubelet.
//!
//! Stricter than the kubelet in three points: at most [`TokenOptions::capacity`] answers of each
//! kind are kept, at most [`TokenOptions::at_once`] questions are under way, and a user without a
//! name is nobody.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;
use http::header::{AUTHORIZATION, CONNECTION, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use k8s_openapi::api::authentication::v1::TokenReviewStatus;

use super::{Authenticator, Credential, Presented, User};
use crate::apiserver::answers::{Answer, Answers, Keeping};
use crate::apiserver::{Backoff, REVIEW_LIMIT, ReviewError, Reviews};
use crate::{BoxError, BoxFuture};

/// What a subprotocol with a token in it begins with.
const PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";
/// As Go decodes without padding: none there, and spare bits of the last character may be set.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// How tokens are judged.
#[derive(Clone, Copy, Debug)]
pub struct TokenOptions {
    /// `authentication.webhook.cacheTTL`: how long an answer holds, good or bad. Zero: every
    /// request is asked about.
    pub ttl: Duration,
    /// Answers kept of each kind, good and bad.
    pub capacity: NonZeroUsize,
    /// TokenReviews under way at once.
    pub at_once: usize,
    /// For one answer in all; shared by all who wait for it.
    pub limit: Duration,
    /// After failures that may pass.
    pub backoff: Backoff,
}

impl Default for TokenOptions {
    /// The kubelet's: two minutes, 30 seconds in all; and our own bounds, 4,096 answers of each
    /// kind and 64 questions at once.
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(120),
            capacity: NonZeroUsize::new(4096).unwrap_or(NonZeroUsize::MIN),
            at_once: 64,
            limit: REVIEW_LIMIT,
            backoff: Backoff::default(),
        }
    }
}

/// Why a token is bad.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The API server does not know it.
    #[error("invalid bearer token")]
    Invalid,
    /// It could not be judged.
    #[error("bearer token not judged")]
    Review(#[source] Arc<ReviewError>),
    /// The `Authorization` header is no text.
    #[error("the token in the Authorization header is not ASCII text")]
    Header,
    /// More than one subprotocol holds a token.
    #[error("more than one token among the websocket subprotocols")]
    Several,
    /// The subprotocol does not hold base64url, or no UTF-8 in it.
    #[error("the token among the websocket subprotocols is not base64url of UTF-8")]
    Encoding,
    /// The token is the only subprotocol: there would be none to agree on.
    #[error("no subprotocol beside the token")]
    NoProtocol,
}

/// The authenticator.
#[derive(Clone)]
pub struct Tokens {
    reviews: Arc<dyn Reviews>,
    backoff: Backoff,
    answers: Arc<Answers<Verdict>>,
}

/// Who a token belongs to; `None`: nobody.
#[derive(Clone)]
struct Verdict(Option<Arc<User>>);

impl Answer for Verdict {
    fn is_good(&self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("backoff", &self.backoff)
            .field("answers", &self.answers)
            .finish_non_exhaustive()
    }
}

impl Tokens {
    /// Judges by `reviews`.
    pub fn new(reviews: Arc<dyn Reviews>, options: TokenOptions) -> Self {
        let answers = Answers::new(Keeping {
            good: options.ttl,
            bad: options.ttl,
            capacity: options.capacity,
            at_once: options.at_once,
            limit: options.limit,
        });
        Self { reviews, backoff: options.backoff, answers: Arc::new(answers) }
    }

    /// How many answers are kept now: at most twice [`TokenOptions::capacity`].
    pub fn kept(&self) -> usize {
        self.answers.len()
    }

    async fn judge(&self, token: String) -> Result<User, TokenError> {
        let (reviews, backoff) = (Arc::clone(&self.reviews), self.backoff);
        let question = token.clone().into_bytes();
        let ask = || async move {
            let attempt = || {
                let (reviews, token) = (Arc::clone(&reviews), token.clone());
                async move { reviews.token(token).await }
            };
            verdict(backoff.retry(attempt).await?)
        };
        match self.answers.get(&question, ask).await {
            Ok(Verdict(Some(user))) => Ok(User::clone(&user)),
            Ok(Verdict(None)) => Err(TokenError::Invalid),
            Err(error) => Err(TokenError::Review(error)),
        }
    }

    async fn find(&self, headers: &HeaderMap) -> Result<Option<User>, TokenError> {
        let mut failure = None;
        for found in [in_header(headers), in_protocols(headers)] {
            let judged = match found {
                Ok(None) => continue,
                Ok(Some(token)) => self.judge(token).await,
                Err(error) => Err(error),
            };
            match judged {
                Ok(user) => return Ok(Some(user)),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(None), Err)
    }
}

impl Authenticator for Tokens {
    fn authenticate<'a>(
        &'a self,
        presented: Presented<'a>,
    ) -> BoxFuture<'a, Result<Option<User>, BoxError>> {
        Box::pin(async move { self.find(presented.headers).await.map_err(BoxError::from) })
    }
}

/// What a review says. An error text counts only where nobody was authenticated: the token was
/// not checked then, which is another thing than unknown.
fn verdict(status: TokenReviewStatus) -> Result<Verdict, ReviewError> {
    if status.authenticated != Some(true) {
        return match status.error {
            Some(message) if !message.is_empty() => Err(ReviewError::NotChecked { message }),
            _ => Ok(Verdict(None)),
        };
    }
    let user = status.user.unwrap_or_default();
    let name = user.username.filter(|name| !name.is_empty()).ok_or(ReviewError::NoUser)?;
    Ok(Verdict(Some(Arc::new(User {
        name,
        uid: user.uid.unwrap_or_default(),
        groups: user.groups.unwrap_or_default(),
        extra: user.extra.unwrap_or_default(),
        credential: Credential::Token,
    }))))
}

/// The token of the `Authorization` header: the second word, where the first is `Bearer` in any
/// case. Other schemes, and a scheme without a token, are none of ours.
fn in_header(headers: &HeaderMap) -> Result<Option<String>, TokenError> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let value = value.as_bytes().trim_ascii();
    let mut words = value.split(|byte| *byte == b' ');
    if !words.next().is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer")) {
        return Ok(None);
    }
    match words.next() {
        None | Some(b"") => Ok(None),
        Some(token) if token.is_ascii() => Ok(Some(String::from_utf8_lossy(token).into_owned())),
        Some(_) => Err(TokenError::Header),
    }
}

/// The token among the subprotocols of a websocket handshake.
fn in_protocols(headers: &HeaderMap) -> Result<Option<String>, TokenError> {
    if !is_websocket(headers) {
        return Ok(None);
    }
    let (mut found, mut others) = (None, false);
    for value in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        for protocol in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            match protocol.strip_prefix(PROTOCOL.as_bytes()) {
                None => others = true,
                Some(_) if found.is_some() => return Err(TokenError::Several),
                Some(encoded) => {
                    let token = BASE64URL.decode(encoded).map_err(|_| TokenError::Encoding)?;
                    found = Some(String::from_utf8(token).map_err(|_| TokenError::Encoding)?);
                }
            }
        }
    }
    match found.filter(|token| !token.is_empty()) {
        Some(_) if !others => Err(TokenError::NoProtocol),
        found => Ok(found),
    }
}

/// `Connection: upgrade` (one word of a list, any case) and `Upgrade: websocket`.
fn is_websocket(headers: &HeaderMap) -> bool {
    let names = |name, wanted: &[u8]| {
        headers.get_all(name).iter().any(|value| {
            value
                .as_bytes()
                .split(|byte| *byte == b',')
                .any(|word| word.trim_ascii().eq_ignore_ascii_case(wanted))
        })
    };
    names(CONNECTION, b"upgrade") && names(UPGRADE, b"websocket")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};
    use std::sync::Mutex;

    use k8s_openapi::api::authentication::v1::UserInfo;
    use k8s_openapi::api::authorization::v1::{SubjectAccessReviewSpec, SubjectAccessReviewStatus};
    use tokio::sync::Notify;

    use super::*;

    /// An API server played by the test: a status per token, anything else is unknown.
    #[derive(Default)]
    struct Played {
        statuses: Mutex<HashMap<String, TokenReviewStatus>>,
        failures: Mutex<Vec<ReviewError>>,
        asked: Mutex<Vec<String>>,
        hold: Option<Notify>,
    }

    impl Played {
        fn knows(&self, token: &str, status: TokenReviewStatus) {
            self.statuses.lock().unwrap().insert(token.to_owned(), status);
        }

        fn asked(&self) -> Vec<String> {
            self.asked.lock().unwrap().clone()
        }
    }

    impl Reviews for Played {
        fn token(&self, token: String) -> BoxFuture<'_, Result<TokenReviewStatus, ReviewError>> {
            Box::pin(async move {
                self.asked.lock().unwrap().push(token.clone());
                if let Some(hold) = &self.hold {
                    hold.notified().await;
                }
                if let Some(failure) = self.failures.lock().unwrap().pop() {
                    return Err(failure);
                }
                let found = self.statuses.lock().unwrap().get(&token).cloned();
                Ok(found.unwrap_or_default())
            })
        }

        fn access(
            &self,
            _spec: SubjectAccessReviewSpec,
        ) -> BoxFuture<'_, Result<SubjectAccessReviewStatus, ReviewError>> {
            unreachable!("tokens are judged without")
        }
    }

    fn known(name: &str) -> TokenReviewStatus {
        TokenReviewStatus {
            authenticated: Some(true),
            user: Some(UserInfo { username: Some(name.to_owned()), ..UserInfo::default() }),
            ..TokenReviewStatus::default()
        }
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            let name: http::HeaderName = name.parse().unwrap();
            map.append(name, value.parse().unwrap());
        }
        map
    }

    async fn judge(tokens: &Tokens, pairs: &[(&str, &str)]) -> Result<Option<String>, String> {
        match tokens.find(&headers(pairs)).await {
            Ok(user) => Ok(user.map(|user| user.name)),
            Err(error) => Err(error.to_string()),
        }
    }

    fn setup(options: TokenOptions) -> (Arc<Played>, Tokens) {
        let played = Arc::new(Played::default());
        (Arc::clone(&played), Tokens::new(played, options))
    }

    #[test]
    fn the_token_is_the_second_word_after_bearer() {
        for (value, token) in [
            ("Bearer abc", Some("abc")),
            ("bEARER abc", Some("abc")),
            ("  Bearer abc  ", Some("abc")),
            ("Bearer abc def", Some("abc")),
            ("Bearer", None),
            ("Bearer ", None),
            ("Bearer  abc", None),
            ("Basic abc", None),
            ("Bearerabc", None),
            ("", None),
        ] {
            let found = in_header(&headers(&[("authorization", value)])).unwrap();
            assert_eq!(found.as_deref(), token, "{value:?}");
        }
        assert!(in_header(&HeaderMap::new()).unwrap().is_none());
        let mut bytes = HeaderMap::new();
        bytes.insert(AUTHORIZATION, http::HeaderValue::from_bytes(b"Bearer \xff").unwrap());
        assert!(matches!(in_header(&bytes), Err(TokenError::Header)));
    }

    #[test]
    fn a_websocket_carries_its_token_among_the_subprotocols() {
        let of = |protocols: &[&str]| {
            let mut pairs = vec![("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];
            pairs.extend(protocols.iter().map(|value| ("sec-websocket-protocol", *value)));
            in_protocols(&headers(&pairs)).map_err(|error| error.to_string())
        };
        // "abc" and "a?>" (whose encodings differ in the alphabet).
        let abc = "base64url.bearer.authorization.k8s.io.YWJj";
        assert_eq!(of(&[&format!("{abc}, v4.channel.k8s.io")]), Ok(Some("abc".to_owned())));
        assert_eq!(of(&["v4.channel.k8s.io", abc]), Ok(Some("abc".to_owned())));
        let url = "base64url.bearer.authorization.k8s.io.YT8-";
        assert_eq!(of(&[url, "x"]), Ok(Some("a?>".to_owned())));
        // One byte leaves spare bits, set here.
        let spare = "base64url.bearer.authorization.k8s.io.YR";
        assert_eq!(of(&[spare, "x"]), Ok(Some("a".to_owned())));
        assert_eq!(of(&["x"]), Ok(None));
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["base64url.bearer.authorization.k8s.io.", "x"]), Ok(None));
        assert_eq!(of(&[abc]), Err(TokenError::NoProtocol.to_string()));
        assert_eq!(of(&[abc, abc, "x"]), Err(TokenError::Several.to_string()));
        for bad in ["YW J", "YWJj=", "Y", "_w", "a?b"] {
            let protocol = format!("{PROTOCOL}{bad}");
            assert_eq!(of(&[&protocol, "x"]), Err(TokenError::Encoding.to_string()), "{bad}");
        }
        // Not a websocket: the header means nothing.
        let plain = [("sec-websocket-protocol", abc), ("sec-websocket-protocol", "x")];
        assert!(in_protocols(&headers(&plain)).unwrap().is_none());
    }

    #[tokio::test]
    async fn everything_about_the_user_is_carried_over() {
        let (played, tokens) = setup(TokenOptions::default());
        let extra = BTreeMap::from([("scopes".to_owned(), vec!["a".to_owned(), "b".to_owned()])]);
        let info = UserInfo {
            username: Some("robot".to_owned()),
            uid: Some("u-1".to_owned()),
            groups: Some(vec!["dev".to_owned(), "ops".to_owned()]),
            extra: Some(extra.clone()),
        };
        let error = Some("ignored beside a user".to_owned());
        played.knows("t", TokenReviewStatus { user: Some(info), error, ..known("") });
        let user = tokens.find(&headers(&[("authorization", "Bearer t")])).await.unwrap().unwrap();
        let expected = User {
            name: "robot".to_owned(),
            uid: "u-1".to_owned(),
            groups: vec!["dev".to_owned(), "ops".to_owned()],
            extra,
            credential: Credential::Token,
        };
        assert_eq!(user, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn known_and_unknown_are_kept_for_the_ttl() {
        let (played, tokens) = setup(TokenOptions::default());
        played.knows("good", known("robot"));
        let good = [("authorization", "Bearer good")];
        let bad = [("authorization", "Bearer bad")];
        for _ in 0..3 {
            assert_eq!(judge(&tokens, &good).await, Ok(Some("robot".to_owned())));
            assert_eq!(judge(&tokens, &bad).await, Err("invalid bearer token".to_owned()));
        }
        assert_eq!(played.asked(), ["good", "bad"]);
        // What the API server thinks now is heard when the time is over.
        played.knows("good", TokenReviewStatus::default());
        played.knows("bad", known("late"));
        tokio::time::advance(Duration::from_millis(119_999)).await;
        assert_eq!(judge(&tokens, &good).await, Ok(Some("robot".to_owned())));
        assert_eq!(judge(&tokens, &bad).await, Err("invalid bearer token".to_owned()));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(judge(&tokens, &good).await, Err("invalid bearer token".to_owned()));
        assert_eq!(judge(&tokens, &bad).await, Ok(Some("late".to_owned())));
        assert_eq!(played.asked().len(), 4);
    }

    #[tokio::test]
    async fn a_token_that_was_not_checked_is_another_thing_than_an_unknown_one() {
        let (played, tokens) = setup(TokenOptions::default());
        let error = Some("signer is away".to_owned());
        played.knows("t", TokenReviewStatus { error, ..TokenReviewStatus::default() });
        let header = headers(&[("authorization", "Bearer t")]);
        for asked in 1..=2 {
            let error = tokens.find(&header).await.unwrap_err();
            assert_eq!(error.to_string(), "bearer token not judged");
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert_eq!(source, "the API server could not check the token: signer is away");
            // Not kept, and not asked again by itself either.
            assert_eq!(played.asked().len(), asked);
        }
        assert_eq!(tokens.kept(), 0);
        // An empty text says nothing.
        let empty = TokenReviewStatus { error: Some(String::new()), ..Default::default() };
        played.knows("t", empty);
        assert!(matches!(tokens.find(&header).await, Err(TokenError::Invalid)));
    }

    #[tokio::test]
    async fn a_user_without_a_name_is_nobody() {
        let (played, tokens) = setup(TokenOptions::default());
        played.knows("t", known(""));
        let header = headers(&[("authorization", "Bearer t")]);
        assert!(matches!(tokens.find(&header).await, Err(TokenError::Review(_))));
        played.knows("t", TokenReviewStatus { user: None, ..known("") });
        assert!(matches!(tokens.find(&header).await, Err(TokenError::Review(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_that_may_pass_are_survived() {
        let (played, tokens) = setup(TokenOptions::default());
        played.knows("t", known("robot"));
        let busy = || ReviewError::Status { code: 429, message: String::new(), retry_after: None };
        played.failures.lock().unwrap().extend([busy(), busy(), busy(), busy()]);
        let header = [("authorization", "Bearer t")];
        assert_eq!(judge(&tokens, &header).await, Ok(Some("robot".to_owned())));
        assert_eq!(played.asked().len(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_of_one_token_share_one_question_and_its_limit() {
        let played = Arc::new(Played { hold: Some(Notify::new()), ..Played::default() });
        let tokens = Tokens::new(Arc::clone(&played) as _, TokenOptions::default());
        let start = tokio::time::Instant::now();
        let header = [("authorization", "Bearer t")];
        let (first, second) = tokio::join!(judge(&tokens, &header), judge(&tokens, &header));
        assert_eq!(first, Err("bearer token not judged".to_owned()));
        assert_eq!(second, first);
        assert_eq!((played.asked().len(), start.elapsed()), (1, REVIEW_LIMIT));
    }

    #[tokio::test]
    async fn either_place_is_enough_and_the_first_failure_is_told() {
        let (played, tokens) = setup(TokenOptions::default());
        played.knows("abc", known("socket"));
        let with = |authorization, protocol: &'static str| {
            [
                ("authorization", authorization),
                ("connection", "upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-protocol", protocol),
                ("sec-websocket-protocol", "v4.channel.k8s.io"),
            ]
        };
        let good = "base64url.bearer.authorization.k8s.io.YWJj";
        let bad = "base64url.bearer.authorization.k8s.io.YWJk";
        let socket = Ok(Some("socket".to_owned()));
        assert_eq!(judge(&tokens, &with("Bearer no", good)).await, socket);
        assert_eq!(judge(&tokens, &with("Bearer abc", bad)).await, socket);
        let broken = "base64url.bearer.authorization.k8s.io.?";
        let invalid = Err("invalid bearer token".to_owned());
        assert_eq!(judge(&tokens, &with("Bearer no", broken)).await, invalid);
    }
}
