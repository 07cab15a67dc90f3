//! What the ticker tells, in logs of the CRI's format: `<time> stdout F <time of day, ns> <longest gap, us> <pages>`.

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
    /// Pages its load has written since the line before.
    pub(crate) pages: u64,
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The lines told after a moment, in order.
pub(crate) fn read(logs: &[PathBuf], after: i64) -> Result<Vec<Tick>> {
    let mut all: Vec<Tick> = lines(logs)?.iter().filter_map(|line| tick(line)).collect();
    all.retain(|tick| tick.at > after);
    all.sort_by_key(|tick| tick.at);
    Ok(all)
}

/// When the whole memory had been read, if it was begun after a moment: nanoseconds since 1970.
pub(crate) fn whole_read(logs: &[PathBuf], after: i64) -> Result<Option<i64>> {
    let all = lines(logs)?;
    let mut reads = all.iter().filter_map(|line| {
        let (begun, ended) = line.split_once(" read ")?.1.split_once(' ')?;
        Some((begun.parse::<i64>().ok()?, ended.parse::<i64>().ok()?))
    });
    Ok(reads.find(|(begun, _)| *begun > after).map(|(_, ended)| ended))
}

/// What the ticker could not make, if so.
pub(crate) fn refusal(logs: &[PathBuf]) -> Result<Option<String>> {
    let all = lines(logs)?;
    Ok(all.iter().find_map(|line| Some(line.split_once(" cannot: ")?.1.to_owned())))
}

/// The whole lines at the end of the logs.
fn lines(logs: &[PathBuf]) -> Result<Vec<String>> {
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
        all.extend(whole.lines().map(str::to_owned));
    }
    Ok(all)
}

fn tick(line: &str) -> Option<Tick> {
    let mut words = line.split(' ').skip(3);
    let at = words.next()?.parse().ok()?;
    let gap = words.next()?.parse().ok()?;
    Some(Tick { at, gap, pages: words.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_ticker_are_found_among_others() {
        let line = "2026-11-23T13:24:27.390663614+00:00 stdout F 1795440267390624776 1115 12";
        let wanted = Tick { at: 1_795_440_267_390_624_776, gap: 1115, pages: 12 };
        assert_eq!(tick(line), Some(wanted));
        assert_eq!(tick("2026-11-23T13:24:27Z stdout F ready"), None);
        assert_eq!(tick(""), None);
    }
}
