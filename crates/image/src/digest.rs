//! Computes digests of a build's inputs.

use std::fmt;

/// A digest of everything that goes into an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; Digest::LEN]);

impl Digest {
    /// Bytes kept of the 32 of BLAKE3: names stay short, and 128 bits are far
    /// more than accidents need.
    const LEN: usize = 16;
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Collects inputs one after the other.
///
/// Every field goes in with its name and length, so that no two lists of inputs
/// run together into the same bytes.
#[derive(Debug, Default)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// Adds an input.
    pub fn field(&mut self, name: &str, content: impl AsRef<[u8]>) -> &mut Self {
        for bytes in [name.as_bytes(), content.as_ref()] {
            self.0.update(&(bytes.len() as u64).to_le_bytes());
            self.0.update(bytes);
        }
        self
    }

    /// The digest of the inputs so far.
    pub fn finish(&self) -> Digest {
        let mut digest = [0; Digest::LEN];
        digest.copy_from_slice(&self.0.finalize().as_bytes()[..Digest::LEN]);
        Digest(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_do_not_run_together() {
        let digest = |fields: &[(&str, &str)]| {
            let mut hasher = Hasher::default();
            for (name, content) in fields {
                hasher.field(name, content);
            }
            hasher.finish().to_string()
        };
        assert_ne!(digest(&[("a", "bc")]), digest(&[("ab", "c")]));
        assert_ne!(digest(&[("a", "b"), ("c", "")]), digest(&[("a", "bc")]));
        assert_eq!(digest(&[("a", "b")]), digest(&[("a", "b")]));
        assert_eq!(digest(&[]).len(), 32);
    }
}
