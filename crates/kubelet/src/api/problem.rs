//! Refusals in a form that programs can read: `application/problem+json` (RFC 9457).

use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Response, StatusCode};

use crate::reply::{Reply, whole};

/// The media type.
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    /// What is wrong, where, and the way out.
    pub(crate) detail: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), headers: Vec::new() }
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub(crate) fn method_not_allowed(allow: &str) -> Self {
        let detail = format!("this path takes {allow}");
        // A list of methods is always a header's value.
        match HeaderValue::from_str(allow) {
            Ok(value) => Self::new(StatusCode::METHOD_NOT_ALLOWED, detail).with(ALLOW, value),
            Err(_) => Self::new(StatusCode::METHOD_NOT_ALLOWED, detail),
        }
    }

    /// With a header more.
    pub(crate) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// As an answer. The type is `about:blank`: the status says what kind of problem it is.
    pub(crate) fn reply(&self) -> Reply {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let body = serde_json::json!({
            "type": "about:blank",
            "title": title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        })
        .to_string();
        let mut reply = Response::new(());
        *reply.status_mut() = self.status;
        let headers = reply.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        headers.extend(self.headers.iter().cloned());
        reply.map(|()| whole(body))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_problem_says_its_status_twice_and_keeps_its_headers() {
        let reply = Problem::method_not_allowed("GET, HEAD").reply();
        assert_eq!(reply.status(), 405);
        assert_eq!(reply.headers()[ALLOW], "GET, HEAD");
        assert_eq!(reply.headers()[CONTENT_TYPE], MEDIA_TYPE);
        let length = reply.headers()[CONTENT_LENGTH].to_str().unwrap().to_owned();
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(length, body.len().to_string());
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(json["status"], 405);
        assert_eq!(json["title"], "Method Not Allowed");
        assert_eq!(json["detail"], "this path takes GET, HEAD");
        assert_eq!(json["type"], "about:blank");
    }
}
