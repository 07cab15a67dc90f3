//! Durations as the kubelet's file has them: Go's `time.ParseDuration`, such as `5m0s`, `1.5h`,
//! `0`, in YAML always text.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Nanoseconds per unit, by Go's names.
const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Go counts nanoseconds in an `int64`: 292 years.
const LONGEST: u128 = i64::MAX as u128;

/// Not a duration.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum DurationError {
    /// Not Go's syntax.
    #[error("{text:?} is not a duration: write it as 5m0s, 90s or 1h30m")]
    Syntax {
        /// As given.
        text: String,
    },
    /// Less than nothing.
    #[error("{text:?} is negative")]
    Negative {
        /// As given.
        text: String,
    },
    /// Beyond Go's range.
    #[error("{text:?} is longer than 292 years")]
    TooLong {
        /// As given.
        text: String,
    },
}

/// A duration in Go's syntax.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub Duration);

impl std::str::FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let named = || text.to_owned();
        let syntax = || DurationError::Syntax { text: named() };
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let nanos = if unsigned == "0" { Some(0) } else { nanos(unsigned).ok_or_else(syntax)? };
        match nanos {
            Some(nanos) if negative && nanos > 0 => Err(DurationError::Negative { text: named() }),
            Some(nanos) if nanos <= LONGEST => {
                let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
                Ok(Self(Duration::from_nanos(nanos)))
            }
            _ => Err(DurationError::TooLong { text: named() }),
        }
    }
}

/// Nanoseconds of a sum of numbers with units: `None` for what is none, `Some(None)` beyond all
/// ranges.
pub(crate) fn nanos(text: &str) -> Option<Option<u128>> {
    let mut rest = text;
    let mut sum: Option<u128> = Some(0);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, tail) = rest.split_at(digits(rest));
        let (fraction, tail) = match tail.strip_prefix('.') {
            Some(tail) => tail.split_at(digits(tail)),
            None => ("", tail),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let end = tail.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let scale = UNITS.iter().find(|(name, _)| *name == unit)?.1;
        sum = (|| {
            let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
            // Below a nanosecond nothing counts: 18 digits of an hour's fraction are plenty.
            let fraction = fraction.get(..fraction.len().min(18))?;
            let part = match fraction {
                "" => 0,
                digits => {
                    let divisor = 10_u128.pow(u32::try_from(digits.len()).ok()?);
                    digits.parse::<u128>().ok()? * scale / divisor
                }
            };
            sum?.checked_add(whole.checked_mul(scale)?)?.checked_add(part)
        })();
        rest = tail;
    }
    Some(sum)
}

impl std::fmt::Display for GoDuration {
    /// As Go prints it: `1h5m0s`, `90ms`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nanos = self.0.as_nanos();
        let fraction = |f: &mut std::fmt::Formatter<'_>, scale: u128, unit| {
            let digits = format!("{}.{:09}", nanos / scale, nanos % scale * 1_000_000_000 / scale);
            write!(f, "{}{unit}", digits.trim_end_matches('0').trim_end_matches('.'))
        };
        match nanos {
            0 => return f.write_str("0s"),
            1..1_000 => return write!(f, "{nanos}ns"),
            1_000..1_000_000 => return fraction(f, 1_000, "µs"),
            1_000_000..1_000_000_000 => return fraction(f, 1_000_000, "ms"),
            _ => {}
        }
        let (minutes, seconds) = (self.0.as_secs() / 60, self.0.as_secs() % 60);
        if minutes >= 60 {
            write!(f, "{}h", minutes / 60)?;
        }
        if minutes > 0 {
            write!(f, "{}m", minutes % 60)?;
        }
        match self.0.subsec_nanos() {
            0 => write!(f, "{seconds}s"),
            rest => write!(f, "{}s", format!("{seconds}.{rest:09}").trim_end_matches('0')),
        }
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl de::Visitor<'_> for Text {
            type Value = GoDuration;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a duration such as 5m0s or 90s")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<GoDuration, E> {
                text.parse().map_err(E::custom)
            }

            // A bare 0 needs no unit in Go, and is no text in YAML.
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<GoDuration, E> {
                match number {
                    0 => Ok(GoDuration(Duration::ZERO)),
                    _ => Err(E::invalid_type(de::Unexpected::Unsigned(number), &self)),
                }
            }
        }

        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_printed_as_go_does() {
        for (text, nanos, printed) in [
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("-0", 0, "0s"),
            ("5m0s", 300_000_000_000, "5m0s"),
            ("5m", 300_000_000_000, "5m0s"),
            ("+90s", 90_000_000_000, "1m30s"),
            ("1.5h", 5_400_000_000_000, "1h30m0s"),
            (".5s", 500_000_000, "500ms"),
            ("1.s", 1_000_000_000, "1s"),
            ("1500ms", 1_500_000_000, "1.5s"),
            ("1h0.25s", 3_600_250_000_000, "1h0m0.25s"),
            ("7ns", 7, "7ns"),
            ("1.5µs", 1_500, "1.5µs"),
            ("2us", 2_000, "2µs"),
            ("1s2m", 121_000_000_000, "2m1s"),
            ("0.9999999999999999999999999s", 999_999_999, "999.999999ms"),
        ] {
            let read: GoDuration = text.parse().unwrap();
            assert_eq!((read.0.as_nanos(), read.to_string().as_str()), (nanos, printed), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_the_way_out() {
        for text in ["", "5", "s", ".s", "5x", "5m 0s", "1e3s", "-", "5mm", "1..5s", "0x1s", "−5s"]
        {
            let error = text.parse::<GoDuration>().unwrap_err();
            assert_eq!(error, DurationError::Syntax { text: text.to_owned() });
        }
        assert_eq!("-5m".parse::<GoDuration>().unwrap_err().to_string(), "\"-5m\" is negative");
        for text in ["2562048h", "99999999999999999999999999999999999999999h"] {
            let error = text.parse::<GoDuration>().unwrap_err();
            assert_eq!(error, DurationError::TooLong { text: text.to_owned() });
        }
    }
}
