//! Sizes in bytes, as people write them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A number of bytes. Written and read as `512MiB`, `2GiB`, `1TiB`, `64KiB` or a plain
/// number of bytes, and read as Docker has them, too: `512m`, `2g`, `1t`, `64k`, of either case.
/// In JSON always the plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

/// Why a string is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a size: write bytes or a number with KiB, MiB, GiB or TiB, as in 512MiB")]
pub struct InvalidSize(String);

/// Each unit's names, as it is written first. No library reads just these: `bytesize` takes `512m`
/// for decimal, `parse-size` takes either that or `512MB` for what it is not, and none writes a size
/// so that it can be read back.
const UNITS: [([&str; 3], u64); 4] = [
    (["TiB", "T", "t"], 1 << 40),
    (["GiB", "G", "g"], 1 << 30),
    (["MiB", "M", "m"], 1 << 20),
    (["KiB", "K", "k"], 1 << 10),
];

impl Bytes {
    /// `n` mebibytes, saturating.
    pub const fn mib(n: u64) -> Self {
        Self(n.saturating_mul(1 << 20))
    }

    /// Whole mebibytes, rounded down.
    pub const fn as_mib(self) -> u64 {
        self.0 >> 20
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ([unit, ..], size) in UNITS {
            if self.0 >= size && self.0.is_multiple_of(size) {
                return write!(f, "{}{unit}", self.0 / size);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl FromStr for Bytes {
    type Err = InvalidSize;
    fn from_str(s: &str) -> Result<Self, InvalidSize> {
        let invalid = || InvalidSize(s.to_owned());
        let digits_before = |names: &[&str; 3]| names.iter().find_map(|name| s.strip_suffix(name));
        let (digits, scale) = UNITS
            .iter()
            .find_map(|(names, size)| Some((digits_before(names)?, *size)))
            .unwrap_or((s, 1));
        let number: u64 = digits.trim_end().parse().map_err(|_| invalid())?;
        number.checked_mul(scale).map(Self).ok_or_else(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_back_as_written() {
        for text in ["512MiB", "2GiB", "999TiB", "1KiB", "77", "0"] {
            assert_eq!(text.parse::<Bytes>().unwrap().to_string(), text);
        }
        assert_eq!("1024MiB".parse::<Bytes>().unwrap().to_string(), "1GiB");
    }

    #[test]
    fn sizes_are_read_as_docker_has_them() {
        for (text, same) in [
            ("512m", "512MiB"),
            ("2G", "2GiB"),
            ("3t", "3TiB"),
            ("64k", "64KiB"),
        ] {
            assert_eq!(text.parse::<Bytes>().unwrap().to_string(), same);
        }
    }

    #[test]
    fn nonsense_is_refused_and_overflow_does_not_wrap() {
        for bad in [
            "",
            "MiB",
            "-1MiB",
            "1.5GiB",
            "12MB",
            "m",
            "5x",
            "5mm",
            "99999999999999GiB",
            "16777216TiB",
        ] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad:?} was taken");
        }
    }
}
