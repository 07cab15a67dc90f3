//! The demo's container: it counts, tells every value, and with it the longest time it was not
//! running since the value before.
//!
//! The value lies in a page of its own behind a mark, so that the demo can read it in the archive's
//! memory. The mark is given bit by bit inverted, otherwise it would be found in the arguments, too.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::args::CounterArgs;

/// How long between two looks at the clock.
const LOOK: Duration = Duration::from_millis(1);

/// Looks from one value to the next.
const LOOKS_PER_VALUE: u32 = 20;

/// A mark and the value behind it, as they lie in memory.
#[derive(Debug)]
#[repr(C, align(4096))]
struct Page {
    mark: [u8; 16],
    value: u64,
}

/// Writes the mark, as it lies in memory, from the argument; false when the argument is none. In
/// place: a copy on the stack would be found, too.
pub(crate) fn write_mark(argument: &str, mark: &mut [u8; 16]) -> bool {
    let digits = argument.as_bytes();
    if digits.len() != 2 * mark.len() {
        return false;
    }
    for (byte, pair) in mark.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        let (Some(high), Some(low)) = (digit(0), digit(1)) else { return false };
        *byte = !u8::try_from(high << 4 | low).unwrap_or_default();
    }
    true
}

/// The line in which the counter tells a value.
pub(crate) fn told(value: u64, longest: Duration) -> String {
    format!("value {value} gap-us {}", longest.as_micros())
}

/// Value and longest gap (microseconds) of such a line.
pub(crate) fn heard(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split_whitespace();
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some("value"), Some(value), Some("gap-us"), Some(gap)) => {
            Some((value.parse().ok()?, gap.parse().ok()?))
        }
        _ => None,
    }
}

/// Counts until it is stopped.
pub(crate) fn run(args: &CounterArgs) -> anyhow::Result<()> {
    let mut page = Box::new(Page { mark: [0; 16], value: 0 });
    ensure!(write_mark(&args.mark, &mut page.mark), "the mark is not 32 hexadecimal digits");
    let mut last = Instant::now();
    loop {
        let mut longest = Duration::ZERO;
        for _ in 0..LOOKS_PER_VALUE {
            std::thread::sleep(LOOK);
            let now = Instant::now();
            longest = longest.max(now.saturating_duration_since(last));
            last = now;
        }
        page.value += 1;
        // The compiler must keep the value in memory, not in a register.
        let value = std::hint::black_box(&mut page).value;
        let mut line = told(value, longest);
        line.push('\n');
        // One write, so that a line is never torn.
        std::io::stdout().write_all(line.as_bytes()).context("tell a value")?;
        std::io::stdout().flush().context("tell a value")?;
    }
}

/// Values that lie behind the mark in this memory.
pub(crate) fn values_in(memory: &[u8], mark: &[u8; 16]) -> Vec<u64> {
    memory
        .windows(24)
        .step_by(8)
        .filter(|window| window.starts_with(mark))
        .filter_map(|window| window.get(16..24)?.try_into().ok())
        .map(u64::from_le_bytes)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_heard() {
        let line = told(7, Duration::from_micros(1234));
        assert_eq!(heard(&line), Some((7, 1234)));
        assert_eq!(heard("value x gap-us 1"), None);
    }

    #[test]
    fn the_value_is_found_behind_the_mark() {
        let mut mark = [0; 16];
        assert!(write_mark("000102030405060708090a0b0c0d0e0f", &mut mark));
        assert_eq!(mark[0], 0xff);
        let mut memory = vec![0; 8192];
        memory[4096..4112].copy_from_slice(&mark);
        memory[4112..4120].copy_from_slice(&42u64.to_le_bytes());
        assert_eq!(values_in(&memory, &mark), [42]);
        assert!(!write_mark("short", &mut mark));
    }
}
