//! Names of virtual machines.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A VM's name: unique for one user, used in paths and as the guest's hostname.
///
/// One to [`VmName::MAX_LEN`] characters of `a-z A-Z 0-9 _ . -`, beginning with
/// a letter or a digit (the form of Docker's container names).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmName(String);

/// Why a string is not a VM name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a VM name: use 1 to {max} of a-z A-Z 0-9 _ . - and begin with a letter or digit",
    max = VmName::MAX_LEN
)]
pub struct InvalidName(String);

impl VmName {
    /// Longest name, in bytes: a socket path under the run directory must stay
    /// below the 108 bytes of `sockaddr_un`.
    pub const MAX_LEN: usize = 48;

    /// Checks and takes a name.
    ///
    /// # Errors
    /// [`InvalidName`] when the string is not of the form above.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
        let name = name.into();
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let begins_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if begins_well && name.len() <= Self::MAX_LEN && name.chars().all(good) {
            Ok(Self(name))
        } else {
            Err(InvalidName(name))
        }
    }

    /// The name of this VM's clone number `k`: `<parent>-<k>`.
    ///
    /// # Errors
    /// [`InvalidName`] when that grows too long.
    pub fn clone_name(&self, k: u32) -> Result<Self, InvalidName> {
        Self::new(format!("{self}-{k}"))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for VmName {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        Self::new(s)
    }
}

impl TryFrom<String> for VmName {
    type Error = InvalidName;
    fn try_from(s: String) -> Result<Self, InvalidName> {
        Self::new(s)
    }
}

impl From<VmName> for String {
    fn from(name: VmName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_leaves_its_directory() {
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "-rf",
            ".hidden",
            "a b",
            "é",
            &"x".repeat(49),
        ] {
            assert!(VmName::new(bad).is_err(), "{bad:?} was taken");
        }
        for good in ["p", "p-1", "web.2", "A_b", &"x".repeat(48)] {
            assert!(VmName::new(good).is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn clones_are_named_after_their_parent() {
        let parent = VmName::new("web").unwrap();
        assert_eq!(parent.clone_name(3).unwrap().as_str(), "web-3");
        assert!(VmName::new("x".repeat(48)).unwrap().clone_name(1).is_err());
    }
}
