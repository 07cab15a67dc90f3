//! What the ticker tells, in logs of the CRI's format: `<time> stdout F <time of day, ns> <longest gap, us>`.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

/// How much of a log's end is looked at: more than a minute of lines.
const TAIL: u64 = 1 << 20;

/// One line of the ticker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tick {
    /// Nanoseconds since 1970.
    pub(crate) at: i64,
    /// Microseconds.
    pub(crate) gap: u64,
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The lines told after a moment, in order.
pub(crate) fn read(logs: &[PathBuf], after: i64) -> Result<Vec<Tick>> {
    let mut all = Vec::new();
    for log in logs {
        let open = File::open(log);
        let Ok(mut file) = open else { continue };
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).with_context(|| log.display().to_string())?;
        let text = String::from_utf8_lossy(&bytes);
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        all.extend(whole.lines().filter_map(tick).filter(|tick| tick.at > after));
    }
    all.sort_by_key(|tick| tick.at);
    Ok(all)
}

fn tick(line: &str) -> Option<Tick> {
    let mut words = line.split(' ').skip(3);
    Some(Tick { at: words.next()?.parse().ok()?, gap: words.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_ticker_are_found_among_others() {
        let line = "2026-11-23T13:24:27.390663614+00:00 stdout F 1795440267390624776 1115";
        assert_eq!(tick(line), Some(Tick { at: 1_795_440_267_390_624_776, gap: 1115 }));
        assert_eq!(tick("2026-11-23T13:24:27Z stdout F ready"), None);
        assert_eq!(tick(""), None);
    }
}
