//! Downloads: an archive, or a range of it, read piece by piece as the client takes it. The archive
//! stays where it is until the last piece is read.

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    ETAG, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use jiff::fmt::rfc2822::DateTimePrinter;

use super::problem::Problem;
use super::ranges::{Wanted, matches_any, wanted};
use super::stream::{self, Sender};
use crate::reply::{Reply, whole};
use crate::store::Reading;

/// Bytes read at once.
const PIECE: u64 = 256 << 10;
/// A client that takes no piece for so long has gone, whatever its connection says: the archive
/// must not stay open for it.
const STALLED: Duration = Duration::from_secs(90);

/// The answer to a request with these headers, for an archive that is open.
pub(super) fn answer(reading: Reading, headers: &HeaderMap, head: bool) -> Result<Reply, Problem> {
    let tag = format!("\"{}\"", reading.stamp());
    let modified =
        DateTimePrinter::new().timestamp_to_rfc9110_string(&reading.modified()).unwrap_or_default();
    let length = reading.bytes();
    // Something that is no text is no valid value.
    let header = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let mut all = HeaderMap::new();
    let mut put = |name, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            all.insert(name, value);
        }
    };
    put(ETAG, &tag);
    put(LAST_MODIFIED, &modified);
    put(ACCEPT_RANGES, "bytes");
    // It holds secrets.
    put(CACHE_CONTROL, "no-store");
    if header(IF_NONE_MATCH).is_some_and(|list| matches_any(list, &tag)) {
        return Ok(reply(StatusCode::NOT_MODIFIED, all, whole(Bytes::new())));
    }
    put(CONTENT_TYPE, "application/x-tar");
    put(X_CONTENT_TYPE_OPTIONS, "nosniff");
    put(CONTENT_DISPOSITION, &disposition(reading.name()));
    // HEAD has no ranges (section 14.2).
    let range = if head { None } else { header(RANGE) };
    let (status, first, count) = match wanted(range, header(IF_RANGE), &tag, &modified, length) {
        Wanted::Whole => (StatusCode::OK, 0, length),
        Wanted::Part { first, last } => {
            put(CONTENT_RANGE, &format!("bytes {first}-{last}/{length}"));
            (StatusCode::PARTIAL_CONTENT, first, last - first + 1)
        }
        Wanted::Beyond => {
            let text = format!("the archive has {length} bytes, and the range begins after them");
            let extent = HeaderValue::from_str(&format!("bytes */{length}"));
            let problem = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, text);
            return Err(match extent {
                Ok(extent) => problem.with(CONTENT_RANGE, extent),
                Err(_) => problem,
            });
        }
    };
    put(CONTENT_LENGTH, &count.to_string());
    if head {
        return Ok(reply(status, all, whole(Bytes::new())));
    }
    let (sender, body) = stream::body(Some(count));
    tokio::spawn(send(Arc::new(reading), first, count, sender));
    Ok(reply(status, all, body))
}

fn reply(status: StatusCode, headers: HeaderMap, body: crate::reply::Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    *reply.headers_mut() = headers;
    reply
}

/// Reads and sends to the end, or until the client is gone.
async fn send(reading: Arc<Reading>, mut at: u64, mut left: u64, sender: Sender) {
    while left > 0 {
        let size = left.min(PIECE);
        let file = Arc::clone(&reading);
        let read = move || {
            let mut piece = vec![0; usize::try_from(size).unwrap_or_default()];
            file.file().read_exact_at(&mut piece, at).map(|()| piece)
        };
        let piece = match tokio::task::spawn_blocking(read).await {
            Ok(Ok(piece)) => piece,
            Ok(Err(error)) => {
                tracing::error!(archive = reading.name(), at, %error, "cannot read an archive");
                return;
            }
            Err(_) => return,
        };
        match tokio::time::timeout(STALLED, sender.send(piece.into())).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                tracing::warn!(archive = reading.name(), at, "a download is not taken any more");
                return;
            }
        }
        at += size;
        left -= size;
    }
}

/// `Content-Disposition` (RFC 6266): the name to save it under, also where it is not ASCII.
fn disposition(name: &str) -> String {
    let plain = |byte: char| byte.is_ascii_graphic() && !matches!(byte, '"' | '\\' | '%');
    let ascii: String = name.chars().map(|one| if plain(one) { one } else { '_' }).collect();
    let mut text = format!("attachment; filename=\"{ascii}\"");
    if ascii != name {
        text.push_str("; filename*=UTF-8''");
        for byte in name.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                text.push(char::from(byte));
            } else {
                text.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_their_header() {
        let name = "checkpoint-p_n-c-2026-11-25T10:00:00+01:00.tar";
        assert_eq!(disposition(name), format!("attachment; filename=\"{name}\""));
        assert_eq!(
            disposition("a \"é\".tar"),
            "attachment; filename=\"a____.tar\"; filename*=UTF-8''a%20%22%C3%A9%22.tar"
        );
    }
}
