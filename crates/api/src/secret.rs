//! Secrets: data of one VM that its clones do not get.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::hint::black_box;

/// Bytes that are never displayed, and are overwritten when they are dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(#[serde(with = "serde_bytes")] Vec<u8>);

/// A VM's secrets. A clone has only those that its own fork gives to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// Variables for the programs that the host starts in the guest.
    pub variables: Vec<(String, Secret)>,
    /// Files in [`SECRETS_DIR`](crate::guest::SECRETS_DIR), by name.
    pub files: Vec<(String, Secret)>,
}

/// Why secrets are not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// Not a variable's name.
    #[error("'{0}' cannot be a variable's name: it has a '=' or a zero byte, or nothing at all")]
    Variable(String),
    /// A value that an environment variable cannot have.
    #[error("the secret {0} has a zero byte, which a variable cannot have: make it a file")]
    Zero(String),
    /// Not a file's name.
    #[error(
        "'{0}' cannot be a secret file's name: use 1 to 64 of a-z A-Z 0-9 _ . -, not beginning with a dot"
    )]
    File(String),
    /// The secrets are too large.
    #[error("secrets may have 256 KiB together, not {0} bytes")]
    TooLong(usize),
}

impl Secret {
    /// Makes a secret of these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        // Keeps the compiler from optimising the overwriting away, as a dead store.
        black_box(&self.0);
    }
}

impl Secrets {
    /// Most bytes of names and contents together.
    pub const MAX_LEN: usize = 256 << 10;

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.variables.is_empty() && self.files.is_empty()
    }

    /// Checks that a guest can have these secrets.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check(&self) -> Result<(), BadSecret> {
        for (name, value) in &self.variables {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(BadSecret::Variable(name.clone()));
            }
            if value.0.contains(&0) {
                return Err(BadSecret::Zero(name.clone()));
            }
        }
        if let Some((name, _)) = self.files.iter().find(|(name, _)| !is_file_name(name)) {
            return Err(BadSecret::File(name.clone()));
        }
        let all = self.variables.iter().chain(&self.files);
        let len = all.map(|(name, value)| name.len() + value.0.len()).sum();
        match len {
            ..=Self::MAX_LEN => Ok(()),
            _ => Err(BadSecret::TooLong(len)),
        }
    }
}

fn is_file_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, bytes: &[u8]) -> Vec<(String, Secret)> {
        vec![(name.to_owned(), Secret::new(bytes.to_vec()))]
    }

    #[test]
    fn a_secret_is_not_shown_by_accident() {
        let secrets = Secrets {
            variables: named("KEY", b"hush"),
            files: named("key", b"hush"),
        };
        let shown = format!("{secrets:?}");
        assert!(!shown.contains("hush") && !shown.contains("104"), "{shown}");
        let sent = serde_json::to_string(&secrets).unwrap();
        assert_eq!(serde_json::from_str::<Secrets>(&sent).unwrap(), secrets);
    }

    #[test]
    fn names_that_lead_elsewhere_and_values_that_do_not_fit_are_refused() {
        let check = |variables, files| Secrets { variables, files }.check();
        assert_eq!(check(named("KEY", b"x"), named("key.pem", b"\0")), Ok(()));
        for name in ["", "../x", "a/b", ".x", "a b", &"x".repeat(65)] {
            let bad = Err(BadSecret::File(name.to_owned()));
            assert_eq!(check(Vec::new(), named(name, b"x")), bad);
        }
        for name in ["", "a=b", "a\0"] {
            let bad = Err(BadSecret::Variable(name.to_owned()));
            assert_eq!(check(named(name, b"x"), Vec::new()), bad);
        }
        assert_eq!(
            check(named("a", b"\0"), Vec::new()),
            Err(BadSecret::Zero("a".to_owned()))
        );
        let long = vec![0; Secrets::MAX_LEN];
        assert_eq!(
            check(Vec::new(), named("a", &long)),
            Err(BadSecret::TooLong(Secrets::MAX_LEN + 1))
        );
    }
}
