//! The `timeout` parameter, the only one the endpoint has: seconds.
//!
//! The query string is read as Go's `url.ParseQuery` reads it (a pair with a bad escape or a
//! semicolon is dropped, `+` is a space), the last `timeout` counts, and it is a decimal `i64`.
//! Beyond the kubelet, the form in which Go prints a duration (`5m0s`, `1.5s`, `250ms`) is
//! accepted, because client-go sends its own timeout as such under the same name and a kubelet
//! refuses the call for it. A form Go never prints (`5m`, `1.5`) stays refused, with the kubelet's
//! status.

use std::time::Duration;

use crate::config::nanos;

/// The value cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot parse value of timeout parameter")]
pub struct BadTimeout;

/// The requested timeout in seconds; 0 when the query has none.
pub fn parse_query(query: Option<&str>) -> Result<i64, BadTimeout> {
    let last = query
        .unwrap_or("")
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.contains(';'))
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(key)?, decode(value)?))
        })
        .rfind(|(key, _)| key == b"timeout");
    match last {
        None => Ok(0),
        Some((_, value)) => {
            let text = std::str::from_utf8(&value).map_err(|_| BadTimeout)?;
            parse_value(text)
        }
    }
}

/// Whole seconds as the kubelet reads them, or a printed Go duration, rounded up.
fn parse_value(text: &str) -> Result<i64, BadTimeout> {
    match text.parse::<i64>() {
        Ok(seconds) => Ok(seconds),
        Err(_) => parse_duration(text).ok_or(BadTimeout),
    }
}

/// A printed Go duration in seconds, rounded away from zero so that a fraction never shortens. Go
/// always prints one with a final `s`; what it could parse but never prints is not accepted.
fn parse_duration(text: &str) -> Option<i64> {
    const SECOND: u128 = 1_000_000_000;
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let nanos = if unsigned.ends_with('s') { nanos(unsigned)?? } else { return None };
    let seconds = i64::try_from(nanos.div_ceil(SECOND)).ok()?;
    Some(if negative { -seconds } else { seconds })
}

/// Undoes form encoding; `None` for a broken escape.
fn decode(text: &str) -> Option<Vec<u8>> {
    crate::routes::unescape(text.as_bytes(), true)
}

/// The timeout that is in force: a request can only lengthen the default, because the kubelet's
/// CRI client puts its own default in place of anything shorter.
///
/// Returns the seconds for the CRI field and the deadline of the call, or `None` for a negative
/// request. The deadline is capped at ten years: Go overflows here and fails at once.
pub fn effective(requested: i64, default: Duration) -> Option<(i64, Duration)> {
    const LONGEST: u64 = 10 * 366 * 24 * 3600;
    let requested_secs = u64::try_from(requested).ok()?;
    let asked = Duration::from_secs(requested_secs);
    if asked > default {
        return Some((requested, Duration::from_secs(requested_secs.min(LONGEST))));
    }
    let whole = default.as_secs() + u64::from(default.subsec_nanos() > 0);
    Some((i64::try_from(whole).unwrap_or(i64::MAX), default))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_is_zero() {
        for query in [None, Some(""), Some("x=1"), Some("Timeout=9"), Some("&&")] {
            assert_eq!(parse_query(query), Ok(0), "{query:?}");
        }
    }

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        for (query, seconds) in [
            ("timeout=5", 5),
            ("timeout=%2B5", 5),
            ("timeout=-1", -1),
            ("timeout=007", 7),
            ("timeout=-0", 0),
            ("%74imeout=5", 5),
            ("timeout=9223372036854775807", i64::MAX),
            ("timeout=-9223372036854775808", i64::MIN),
            ("timeout=abc&timeout=5", 5),
            ("timeout=5&timeout=%zz", 5),
            ("timeout=5&timeout=7;x", 5),
            ("timeout=3&x=1&timeout=4", 4),
        ] {
            assert_eq!(parse_query(Some(query)), Ok(seconds), "{query}");
        }
    }

    #[test]
    fn what_the_kubelet_cannot_read_is_refused() {
        for query in [
            "timeout=",
            "timeout",
            "timeout=5m",
            "timeout=1.5",
            "timeout=0x10",
            "timeout=+5",
            "timeout=%205",
            "timeout=1_0",
            "timeout=9223372036854775808",
            "timeout=5&timeout=abc",
            "timeout=1e3",
            "timeout=%FF",
            "timeout=inf",
            "timeout=s",
            "timeout=.s",
            "timeout=1.2.3s",
            "timeout=5x",
            "timeout=5s5",
            "timeout=--5s",
            "timeout=5%20s",
            "timeout=1h5m",
            "timeout=99999999999999999999h0m0s",
        ] {
            assert_eq!(parse_query(Some(query)), Err(BadTimeout), "{query}");
        }
    }

    #[test]
    fn printed_go_durations_are_accepted_and_rounded_up() {
        for (value, seconds) in [
            ("5m0s", 300),
            ("1h0m0s", 3600),
            ("2540400h10m10s", 9_145_440_610),
            ("30s", 30),
            ("0s", 0),
            ("1.5s", 2),
            ("1.000000001s", 2),
            ("250ms", 1),
            ("1us", 1),
            ("1%C2%B5s", 1),
            ("1ns", 1),
            ("-5m0s", -300),
            ("-1ns", -1),
        ] {
            assert_eq!(parse_query(Some(&format!("timeout={value}"))), Ok(seconds), "{value}");
        }
    }

    #[test]
    fn a_request_only_lengthens_the_default() {
        let default = Duration::from_secs(120);
        let secs = Duration::from_secs;
        assert_eq!(effective(0, default), Some((120, default)));
        assert_eq!(effective(10, default), Some((120, default)));
        assert_eq!(effective(120, default), Some((120, default)));
        assert_eq!(effective(121, default), Some((121, secs(121))));
        assert_eq!(effective(-1, default), None);
        assert_eq!(effective(i64::MIN, default), None);
        assert_eq!(
            effective(0, Duration::from_millis(1500)),
            Some((2, Duration::from_millis(1500)))
        );
    }

    #[test]
    fn a_timeout_that_overflows_in_go_is_a_long_timeout_here() {
        for huge in [9_223_372_037, i64::MAX] {
            let (field, deadline) = effective(huge, Duration::from_secs(120)).unwrap();
            assert_eq!(field, huge);
            assert_eq!(deadline, Duration::from_secs(10 * 366 * 24 * 3600));
        }
    }
}
