//! Medians and percentiles of few values, and how they are shown.

/// Median, 99th percentile and maximum by the nearest rank.
pub(crate) fn summary(values: &[u64]) -> Option<[u64; 3]> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    Some([rank(&sorted, 500)?, rank(&sorted, 990)?, *sorted.last()?])
}

/// The value at so many thousandths of a sorted list, by the nearest rank.
pub(crate) fn rank(sorted: &[u64], thousandths: usize) -> Option<u64> {
    sorted.get((sorted.len() * thousandths).div_ceil(1000).max(1) - 1).copied()
}

/// The median by the nearest rank.
pub(crate) fn median(values: &[u64]) -> Option<u64> {
    summary(values).map(|all| all[0])
}

/// The median of ratios: of an even number, the lower of the two in the middle.
pub(crate) fn median_ratio(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().div_ceil(2).max(1) - 1).copied()
}

/// Microseconds as `median / p99 / maximum` in milliseconds.
pub(crate) fn cell(values: &[u64]) -> String {
    summary(values).map_or_else(|| "-".to_owned(), |all| all.map(millis).join(" / "))
}

/// Microseconds as milliseconds.
pub(crate) fn millis(micros: u64) -> String {
    format!("{:.1}", micros as f64 / 1e3)
}

/// Bytes as MiB.
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        assert_eq!(summary(&[5, 1, 4, 2, 3, 10, 9, 8, 7, 6]), Some([5, 10, 10]));
        assert_eq!(summary(&[3]), Some([3, 3, 3]));
        assert_eq!(summary(&[]), None);
        let thousand: Vec<u64> = (1..=1000).collect();
        assert_eq!(rank(&thousand, 999), Some(999));
        assert_eq!(cell(&[1500]), "1.5 / 1.5 / 1.5");
    }

    #[test]
    fn ratios_have_a_median() {
        assert_eq!(median_ratio(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median_ratio(&[2.0, 1.0]), Some(1.0));
        assert_eq!(median_ratio(&[]), None);
    }
}
