//! `X-Request-Id`: taken from the caller when it can be printed safely, else made.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header, in requests and answers.
const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Longest that is taken from a caller, in bytes.
const LONGEST: usize = 128;

/// By what a request is found again in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestId(String);

impl RequestId {
    /// The caller's, if it is short and of letters, digits and `-_.:/+=` only; else a random
    /// UUID (version 4).
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let fits = |text: &&str| {
            (1..=LONGEST).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(&b))
        };
        let given = headers.get(HEADER).and_then(|value| value.to_str().ok()).filter(fits);
        Self(given.map_or_else(random, str::to_owned))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Puts it into an answer.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(&self.0) {
            headers.insert(HEADER, value);
        }
    }
}

fn random() -> String {
    let mut bytes = [0_u8; 16];
    // Once the kernel's generator is up, a read this short neither fails nor falls short:
    // getrandom(2). Were it to, the id is the less unique for it, and nothing else.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if [4, 6, 8, 10].contains(&at) {
            text.push('-');
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        RequestId::of(&headers).0
    }

    #[test]
    fn what_a_caller_says_is_kept_if_it_can_do_no_harm() {
        for good in ["a", "0af7651916cd43dd", "a-b_c.d:e/f+g=", &"x".repeat(LONGEST)] {
            assert_eq!(of(good), good);
        }
        for bad in ["", "a b", "a\"b", "é", "a{b}", "a;b", &"x".repeat(LONGEST + 1)] {
            let made = of(bad);
            assert_ne!(made, bad);
            assert_eq!(made.len(), 36, "{made}");
        }
    }

    #[test]
    fn made_ones_are_random_uuids() {
        let ids: std::collections::HashSet<String> = (0..100).map(|_| random()).collect();
        assert_eq!(ids.len(), 100);
        for id in ids {
            let parts: Vec<usize> = id.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12], "{id}");
            assert_eq!(id.as_bytes()[14], b'4', "{id}");
            assert!(b"89ab".contains(&id.as_bytes()[19]), "{id}");
        }
    }
}
