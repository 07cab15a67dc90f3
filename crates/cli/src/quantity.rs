//! Amounts as people write them.

use std::str::FromStr;

/// Why an amount was not understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum QuantityError {
    /// Not a number with a known unit.
    #[error("{text:?} is not an amount of memory: write bytes, or a number with K, M or G")]
    Bytes { text: String },
    /// Not a positive number.
    #[error("{text:?} is not a number of processors, such as 2 or 0.5")]
    Cpus { text: String },
}

/// Bytes of memory, above zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) i64);

impl FromStr for Bytes {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || QuantityError::Bytes { text: text.to_owned() };
        let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let shift = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "ki" | "kib" | "kb" => 10,
            "m" | "mi" | "mib" | "mb" => 20,
            "g" | "gi" | "gib" | "gb" => 30,
            "t" | "ti" | "tib" | "tb" => 40,
            _ => return Err(error()),
        };
        let number: i64 = number.parse().map_err(|_| error())?;
        match number.checked_mul(1 << shift) {
            Some(bytes) if bytes > 0 => Ok(Self(bytes)),
            _ => Err(error()),
        }
    }
}

/// Processors, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cpus(u32);

/// Microseconds in which [`Cpus::quota`] holds: the kernel's own default.
pub(crate) const CPU_PERIOD: i64 = 100_000;

impl Cpus {
    /// Microseconds of processor time in each [`CPU_PERIOD`].
    pub(crate) fn quota(self) -> i64 {
        // The kernel takes no less than a millisecond.
        (i64::from(self.0) * CPU_PERIOD / 1000).max(1000)
    }
}

impl FromStr for Cpus {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || QuantityError::Cpus { text: text.to_owned() };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        if fraction.len() > 3 || !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(error());
        }
        let whole: u32 = whole.parse().map_err(|_| error())?;
        let thousandths: u32 = format!("{fraction:0<3}").parse().map_err(|_| error())?;
        match whole.checked_mul(1000).and_then(|whole| whole.checked_add(thousandths)) {
            Some(all) if all > 0 => Ok(Self(all)),
            _ => Err(error()),
        }
    }
}

/// Bytes for people: `1.5 GiB`.
pub(crate) fn bytes_text(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_units_of_1024() {
        let bytes = |text: &str| text.parse::<Bytes>().map(|bytes| bytes.0).ok();
        assert_eq!(bytes("4096"), Some(4096));
        assert_eq!(bytes("256M"), Some(256 << 20));
        assert_eq!(bytes("1Gi"), Some(1 << 30));
        for wrong in ["", "0", "-1", "M", "1.5G", "9999999999T", "1X"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn processors_have_fractions() {
        let quota = |text: &str| text.parse::<Cpus>().map(Cpus::quota).ok();
        assert_eq!(quota("2"), Some(200_000));
        assert_eq!(quota("0.5"), Some(50_000));
        assert_eq!(quota("1.25"), Some(125_000));
        assert_eq!(quota("0.001"), Some(1000));
        for wrong in ["", "0", "-1", "0.0001", "x", "1.x", "1e3"] {
            assert_eq!(quota(wrong), None, "{wrong}");
        }
    }
}
