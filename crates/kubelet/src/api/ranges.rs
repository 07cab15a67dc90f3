//! Which bytes a download is to give: `Range` and `If-Range` of RFC 9110 (section 14), for one
//! range. What is not understood is no range, as the RFC has it, and several are the whole.

/// What is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it, 200.
    Whole,
    /// The bytes from `first` to `last`, both included, 206.
    Part { first: u64, last: u64 },
    /// Nothing there, 416.
    Beyond,
}

/// Decides by the values of the two headers, for something of `length` bytes with this strong tag
/// and this `Last-Modified`.
pub(crate) fn wanted(
    range: Option<&str>,
    if_range: Option<&str>,
    tag: &str,
    last_modified: &str,
    length: u64,
) -> Wanted {
    let Some(range) = range.and_then(parse) else { return Wanted::Whole };
    // A weak tag never compares as equal here (section 13.1.5); a date only exactly.
    if if_range.is_some_and(|text| text.trim() != tag && text.trim() != last_modified) {
        return Wanted::Whole;
    }
    match range {
        Range::From { first, last } if first < length => {
            Wanted::Part { first, last: last.unwrap_or(u64::MAX).min(length - 1) }
        }
        Range::Last { count: 1.. } if length == 0 => Wanted::Whole,
        Range::Last { count: count @ 1.. } => {
            Wanted::Part { first: length.saturating_sub(count), last: length - 1 }
        }
        Range::From { .. } | Range::Last { .. } => Wanted::Beyond,
    }
}

/// One range as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    From { first: u64, last: Option<u64> },
    Last { count: u64 },
}

/// `None`: not a single valid range of bytes.
fn parse(text: &str) -> Option<Range> {
    let (unit, set) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    // Empty members of a list are allowed (section 5.6.1).
    let mut specs = set.split(',').map(|spec| spec.trim_matches([' ', '\t']));
    let spec = specs.find(|spec| !spec.is_empty())?;
    if specs.any(|more| !more.is_empty()) {
        return None;
    }
    let (first, last) = spec.split_once('-')?;
    if first.is_empty() {
        return Some(Range::Last { count: number(last)? });
    }
    let first = number(first)?;
    let last = if last.is_empty() { None } else { Some(number(last)?) };
    if last.is_some_and(|last| last < first) {
        return None;
    }
    Some(Range::From { first, last })
}

/// Digits only; what is more than a u64 is as good as its largest.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// Whether a list of tags (`If-None-Match`) holds this one, by weak comparison; `*` holds all.
pub(crate) fn matches_any(list: &str, tag: &str) -> bool {
    list.split(',').map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "\"tag\"";
    const DATE: &str = "Wed, 25 Nov 2026 10:00:00 GMT";

    fn at(range: &str, length: u64) -> Wanted {
        wanted(Some(range), None, TAG, DATE, length)
    }

    fn part(first: u64, last: u64) -> Wanted {
        Wanted::Part { first, last }
    }

    #[test]
    fn one_range_is_cut_to_what_is_there() {
        let rows = [
            ("bytes=0-0", part(0, 0)),
            ("bytes=0-499", part(0, 499)),
            ("bytes=500-999", part(500, 999)),
            ("bytes=500-", part(500, 999)),
            ("bytes=999-", part(999, 999)),
            ("bytes=990-5000", part(990, 999)),
            ("bytes=-1", part(999, 999)),
            ("bytes=-1000", part(0, 999)),
            ("bytes=-5000", part(0, 999)),
            ("Bytes=1-2", part(1, 2)),
            ("bytes= 1-2", part(1, 2)),
            ("bytes=,1-2, ,", part(1, 2)),
            ("bytes=007-010", part(7, 10)),
            ("bytes=0-99999999999999999999999", part(0, 999)),
            ("bytes=-99999999999999999999999", part(0, 999)),
        ];
        for (text, expected) in rows {
            assert_eq!(at(text, 1000), expected, "{text}");
        }
    }

    #[test]
    fn what_lies_beyond_the_end_is_not_satisfiable() {
        for text in ["bytes=1000-", "bytes=1000-2000", "bytes=99999999999999999999-", "bytes=-0"] {
            assert_eq!(at(text, 1000), Wanted::Beyond, "{text}");
        }
        assert_eq!(at("bytes=0-", 0), Wanted::Beyond);
        assert_eq!(at("bytes=-5", 0), Wanted::Whole);
    }

    #[test]
    fn what_is_no_single_valid_range_is_no_range() {
        for text in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=5",
            "bytes=5-4",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=1- 2",
            "bytes=1-2-3",
            "bytes=--5",
            "bytes=0x1-2",
            "lines=1-2",
            "bytes=0-1,5-6",
            "bytes=-1,-2",
            "1-2",
            "bytes=\u{661}-\u{662}",
        ] {
            assert_eq!(at(text, 1000), Wanted::Whole, "{text:?}");
        }
        assert_eq!(wanted(None, None, TAG, DATE, 1000), Wanted::Whole);
        assert_eq!(wanted(None, Some(TAG), TAG, DATE, 1000), Wanted::Whole);
    }

    #[test]
    fn a_range_of_another_archive_is_the_whole_of_this_one() {
        let with = |if_range| wanted(Some("bytes=5-"), Some(if_range), TAG, DATE, 10);
        assert_eq!(with(TAG), part(5, 9));
        assert_eq!(with(DATE), part(5, 9));
        for other in ["\"other\"", "W/\"tag\"", "tag", "*", "", "Wed, 25 Nov 2026 10:00:01 GMT"] {
            assert_eq!(with(other), Wanted::Whole, "{other:?}");
        }
        // Nor is such a range judged.
        let beyond = wanted(Some("bytes=50-"), Some("\"other\""), TAG, DATE, 10);
        assert_eq!(beyond, Wanted::Whole);
    }

    #[test]
    fn tags_are_found_in_a_list() {
        for list in [TAG, "*", "\"a\", \"tag\"", "W/\"tag\""] {
            assert!(matches_any(list, TAG), "{list}");
        }
        for list in ["", "\"a\"", "tag", "\"tag"] {
            assert!(!matches_any(list, TAG), "{list}");
        }
    }
}
