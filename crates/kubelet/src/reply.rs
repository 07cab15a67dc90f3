//! Answers, byte for byte as a kubelet gives them.
//!
//! Errors are plain text: client-go shows the body of anything but `text/*` as "unknown".

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};

use crate::BoxError;

/// A body that is there whole, or comes piece by piece.
pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;

pub(crate) type Reply = Response<Body>;

/// A body that is there whole.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

fn reply(status: StatusCode, body: String, headers: &[(HeaderName, HeaderValue)]) -> Reply {
    // Said here, because an empty h2 answer would go without.
    let length = HeaderValue::from(body.len());
    let mut reply = Response::new(whole(body));
    reply.headers_mut().insert(CONTENT_LENGTH, length);
    *reply.status_mut() = status;
    for (name, value) in headers {
        reply.headers_mut().insert(name, value.clone());
    }
    reply
}

/// A text without a final newline unless it brings one.
pub(crate) fn text(status: StatusCode, body: impl Into<String>) -> Reply {
    reply(status, body.into(), &[(CONTENT_TYPE, TEXT)])
}

/// What Go's server says to a request line it cannot parse.
pub(crate) fn bad_request() -> Reply {
    text(StatusCode::BAD_REQUEST, "400 Bad Request")
}

/// What Go's mux says to a path nobody registered.
pub(crate) fn page_not_found() -> Reply {
    nosniff(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// A text as Go's `http.Error` and Kubernetes' health handlers send it.
pub(crate) fn nosniff(status: StatusCode, body: impl Into<String>) -> Reply {
    let nosniff = (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply(status, body.into(), &[(CONTENT_TYPE, TEXT), nosniff])
}

/// All metrics, in a format of that type.
pub(crate) fn metrics(body: String, content_type: &'static str) -> Reply {
    let content_type = HeaderValue::from_static(content_type);
    reply(StatusCode::OK, body, &[(CONTENT_TYPE, content_type)])
}

/// What go-restful says to a path below a known prefix without a route.
pub(crate) fn no_route() -> Reply {
    text(StatusCode::NOT_FOUND, "404: Page Not Found")
}

/// The route takes POST only.
pub(crate) fn method_not_allowed() -> Reply {
    reply(
        StatusCode::METHOD_NOT_ALLOWED,
        "405: Method Not Allowed".to_owned(),
        &[(CONTENT_TYPE, TEXT), (ALLOW, HeaderValue::from_static("POST"))],
    )
}

/// The route produces JSON only.
pub(crate) fn not_acceptable() -> Reply {
    text(
        StatusCode::NOT_ACCEPTABLE,
        "406: Not Acceptable\n\nAvailable representations: application/json",
    )
}

/// Go's redirect: only a GET gets a body, only GET and HEAD a type.
pub(crate) fn redirect(method: &Method, status: u16, location: &str) -> Reply {
    let (status, phrase) = match status {
        307 => (StatusCode::TEMPORARY_REDIRECT, "Temporary Redirect"),
        _ => (StatusCode::MOVED_PERMANENTLY, "Moved Permanently"),
    };
    let Ok(target) = HeaderValue::from_str(location) else { return bad_request() };
    let body = if method == Method::GET {
        let escaped = location
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('"', "&#34;")
            .replace('\'', "&#39;");
        format!("<a href=\"{escaped}\">{phrase}</a>.\n\n")
    } else {
        String::new()
    };
    let mut headers = vec![(LOCATION, target)];
    if method == Method::GET || method == Method::HEAD {
        headers.push((CONTENT_TYPE, HTML));
    }
    reply(status, body, &headers)
}

/// Success: the archives made, of which there is always one.
pub(crate) fn items(paths: &[&str]) -> Reply {
    let body = serde_json::json!({ "items": paths }).to_string();
    reply(StatusCode::OK, body, &[(CONTENT_TYPE, JSON)])
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn body(reply: Reply) -> String {
        String::from_utf8(reply.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn success_is_one_item_without_spaces_or_newline_and_escaped() {
        assert_eq!(body(items(&["/a/b.tar"])).await, r#"{"items":["/a/b.tar"]}"#);
        assert_eq!(body(items(&["/a\"\n\\é"])).await, r#"{"items":["/a\"\n\\é"]}"#);
    }

    #[tokio::test]
    async fn redirects_are_escaped_for_people() {
        let reply = redirect(&Method::GET, 301, "/a?x='<\">&");
        assert_eq!(
            body(reply).await,
            "<a href=\"/a?x=&#39;&lt;&#34;&gt;&amp;\">Moved Permanently</a>.\n\n"
        );
        assert_eq!(redirect(&Method::POST, 301, "/a\nb").status(), StatusCode::BAD_REQUEST);
    }
}
