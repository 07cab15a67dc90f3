//! Sizes, ages and shares of a disk as policies write them.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

/// Numbers below it are refused without a unit.
const LEAST_BARE_SIZE: u64 = 1 << 20;

/// Why an amount was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not a Kubernetes quantity of bytes.
    #[error(
        "{text:?} is not a size: write a number with Ki, Mi, Gi, Ti, k, M, G or T, such as 10Gi"
    )]
    Size {
        /// As given.
        text: String,
    },
    /// A number whose unit depends on who reads it.
    #[error(
        "{text} is {text} bytes to checkpoint-restore-operator of today and {text} MB to that of \
         before: write {text}Mi, or a larger number of bytes"
    )]
    BareSize {
        /// As given.
        text: String,
    },
    /// Not a duration.
    #[error("{text:?} is not an age: write numbers with s, m, h, d or w, such as 36h or 7d")]
    Age {
        /// As given.
        text: String,
    },
    /// Neither a share nor a size.
    #[error("{text:?} is neither a share of the disk, such as 10%, nor a size, such as 5Gi")]
    MinFree {
        /// As given.
        text: String,
    },
}

/// Bytes, written as Kubernetes writes quantities: `10Gi`, `500M`, `1.5Gi`, `1e9`, `1073741824`.
///
/// A number without a unit that is below 1 MiB is refused: the operator's documentation and its
/// older versions take it for megabytes, its newer versions for bytes, and who guesses wrong
/// deletes everything. 0 needs no unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || AmountError::Size { text: text.to_owned() };
        let text_end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, unit) = text.split_at(text_end);
        let scale: u128 = match unit {
            "" => 1,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            "Pi" => 1 << 50,
            "Ei" => 1 << 60,
            "k" => 1_000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "T" => 1_000_000_000_000,
            "P" => 1_000_000_000_000_000,
            "E" => 1_000_000_000_000_000_000,
            unit => {
                let exponent = unit.strip_prefix(['e', 'E']).ok_or_else(error)?;
                let exponent = exponent.strip_prefix('+').unwrap_or(exponent);
                if exponent.starts_with('+') {
                    return Err(error());
                }
                10_u128.checked_pow(exponent.parse().map_err(|_| error())?).ok_or_else(error)?
            }
        };
        let bytes = decimal(number, scale).and_then(|bytes| u64::try_from(bytes).ok());
        let bytes = bytes.ok_or_else(error)?;
        if unit.is_empty() && bytes > 0 && bytes < LEAST_BARE_SIZE {
            return Err(AmountError::BareSize { text: text.to_owned() });
        }
        Ok(Self(bytes))
    }
}

/// `number` times `scale`, without its fraction.
fn decimal(number: &str, scale: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > 18 {
        return None;
    }
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u128>().ok() };
    let power = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let parts = digits(whole)?.checked_mul(power)?.checked_add(digits(fraction)?)?;
    Some(parts.checked_mul(scale)? / power)
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(60, "Ei"), (50, "Pi"), (40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")];
        match units.iter().find(|(shift, _)| self.0 > 0 && self.0.trailing_zeros() >= *shift) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

/// How old an archive may become: `90s`, `36h`, `7d`, `1w2d`; above zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age(u64);

impl Age {
    /// That many seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds)
    }

    /// In seconds.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0
    }
}

const AGE_UNITS: [(char, u64); 5] =
    [('w', 7 * 86400), ('d', 86400), ('h', 3600), ('m', 60), ('s', 1)];

impl FromStr for Age {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || AmountError::Age { text: text.to_owned() };
        let mut seconds = 0_u64;
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
            let (number, unit) = rest.split_at(end);
            let number: u64 = number.parse().map_err(|_| error())?;
            let letter = unit.chars().next().ok_or_else(error)?;
            let (_, scale) =
                AGE_UNITS.iter().find(|(unit, _)| *unit == letter).ok_or_else(error)?;
            let more = number.checked_mul(*scale).ok_or_else(error)?;
            seconds = seconds.checked_add(more).ok_or_else(error)?;
            rest = &unit[letter.len_utf8()..];
        }
        if seconds == 0 {
            return Err(error());
        }
        Ok(Self(seconds))
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        for (unit, scale) in AGE_UNITS {
            if rest >= scale {
                write!(f, "{}{unit}", rest / scale)?;
                rest %= scale;
            }
        }
        Ok(())
    }
}

/// How much of the disk must stay free: `10%`, `2.5%` or a [`Size`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinFree {
    /// Hundredths of a per cent of the disk.
    Share(u16),
    /// Bytes.
    Bytes(u64),
}

impl MinFree {
    /// Bytes of a disk of `total` bytes.
    #[must_use]
    pub fn bytes(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            // At most `total`, since a share is below 100 per cent.
            Self::Share(share) => {
                u64::try_from(u128::from(total) * u128::from(share) / 10_000).unwrap_or(total)
            }
        }
    }
}

impl FromStr for MinFree {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || AmountError::MinFree { text: text.to_owned() };
        if let Some(number) = text.strip_suffix('%') {
            let share = decimal(number.trim_end(), 100).ok_or_else(error)?;
            return match u16::try_from(share) {
                Ok(share @ 1..10_000) => Ok(Self::Share(share)),
                _ => Err(error()),
            };
        }
        match text.parse() {
            Ok(Size(0)) | Err(AmountError::Size { .. }) => Err(error()),
            Ok(Size(bytes)) => Ok(Self::Bytes(bytes)),
            Err(other) => Err(other),
        }
    }
}

impl fmt::Display for MinFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => Size(*bytes).fmt(f),
            Self::Share(share) if share % 100 == 0 => write!(f, "{}%", share / 100),
            Self::Share(share) => write!(f, "{}.{:02}%", share / 100, share % 100),
        }
    }
}

/// Takes text, and numbers as if they were text.
struct AsText<T> {
    what: &'static str,
    made: std::marker::PhantomData<T>,
}

impl<T: FromStr<Err = AmountError>> Visitor<'_> for AsText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    // `1e9`, `1.5`
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

fn amount<'de, D: Deserializer<'de>, T: FromStr<Err = AmountError>>(
    from: D,
    what: &'static str,
) -> Result<T, D::Error> {
    from.deserialize_any(AsText { what, made: std::marker::PhantomData })
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        amount(from, "a size such as 10Gi")
    }
}

impl<'de> Deserialize<'de> for Age {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        amount(from, "an age such as 7d")
    }
}

impl<'de> Deserialize<'de> for MinFree {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        amount(from, "a share such as 10%, or a size such as 5Gi")
    }
}

/// As it can be read again.
impl Serialize for Size {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.0 == 0 {
            return to.serialize_str("0");
        }
        match self.0.trailing_zeros() {
            // No unit fits; a bare number might be refused, a number with an exponent is not.
            0..10 => to.collect_str(&format_args!("{}e0", self.0)),
            _ => to.collect_str(self),
        }
    }
}

impl Serialize for Age {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl Serialize for MinFree {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bytes(bytes) => Size(*bytes).serialize(to),
            Self::Share(_) => to.collect_str(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_kubernetes_quantities() {
        for (text, bytes) in [
            ("10Gi", 10 << 30),
            ("1.5Gi", 3 << 29),
            (".5Mi", 1 << 19),
            ("100M", 100_000_000),
            ("2k", 2000),
            ("1e9", 1_000_000_000),
            ("1E+3", 1000),
            ("2E", 2_000_000_000_000_000_000),
            ("1048576", 1 << 20),
            ("0", 0),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for wrong in ["", "Gi", "-1", "10 Gi", "10GB", "100m", "1.2.3Gi", "16Ei", "1e99", "1e++3"] {
            assert!(matches!(wrong.parse::<Size>(), Err(AmountError::Size { .. })), "{wrong}");
        }
    }

    #[test]
    fn a_bare_number_that_may_be_megabytes_is_refused_with_the_way_out() {
        for text in ["1", "10", "1000", "1048575"] {
            let error = text.parse::<Size>().unwrap_err();
            assert_eq!(error, AmountError::BareSize { text: text.into() });
            assert!(error.to_string().contains(&format!("write {text}Mi")), "{error}");
        }
    }

    #[test]
    fn ages_add_up_and_are_never_zero() {
        for (text, seconds) in
            [("90s", 90), ("36h", 36 * 3600), ("7d", 604_800), ("1w2d", 9 * 86400), ("1h30m", 5400)]
        {
            assert_eq!(text.parse(), Ok(Age(seconds)), "{text}");
        }
        for wrong in ["", "0s", "7", "d", "-1d", "1y", "1.5h", "1d ", "99999999999999999999s"] {
            assert!(wrong.parse::<Age>().is_err(), "{wrong}");
        }
        for text in ["1w2d", "1d12h", "1h30m", "1m30s"] {
            assert_eq!(text.parse::<Age>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn free_space_is_a_share_or_a_size() {
        assert_eq!("10%".parse(), Ok(MinFree::Share(1000)));
        assert_eq!("2.5%".parse(), Ok(MinFree::Share(250)));
        assert_eq!("5Gi".parse(), Ok(MinFree::Bytes(5 << 30)));
        assert_eq!(MinFree::Share(250).bytes(1000), 25);
        assert_eq!(MinFree::Share(9999).bytes(u64::MAX), 18_444_899_399_302_180_659);
        for wrong in ["0%", "100%", "-1%", "%", "x", "0", "10 GiB"] {
            assert!(wrong.parse::<MinFree>().is_err(), "{wrong}");
        }
        assert!(matches!("10".parse::<MinFree>(), Err(AmountError::BareSize { .. })));
    }

    #[test]
    fn amounts_print_as_they_are_written() {
        for text in ["10Gi", "3Mi", "1Ti"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        assert_eq!(Size(1001).to_string(), "1001 bytes");
        for text in ["10%", "2.50%", "5Gi"] {
            assert_eq!(text.parse::<MinFree>().unwrap().to_string(), text);
        }
    }
}
