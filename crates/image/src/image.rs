//! Finished images, as callers get them.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// An image that is there to be booted. Its files are never changed, only
/// unlinked, so processes that have them open keep them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// Digest over all that went into it.
    pub digest: String,
    /// The kernel: an uncompressed ELF `vmlinux`.
    pub kernel: PathBuf,
    /// The same kernel as a bzImage, for other monitors.
    pub bzimage: PathBuf,
    /// The root disk: a raw ext4 image, to be used read-only under an overlay.
    pub rootfs: PathBuf,
    /// Variables for the programs of the guest.
    #[serde(flatten)]
    pub environment: Environment,
    /// When it was put together, seconds since 1970.
    pub created_unix_s: u64,
    /// Disk space its files take, bytes; some may be shared with other images.
    pub size_bytes: u64,
}

/// Environment variables an image wants its programs to have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Names and values.
    pub env: Vec<(String, String)>,
}

impl Environment {
    /// Reads `NAME=VALUE` lines; empty ones and those that begin with `#` are
    /// skipped.
    pub(crate) fn parse(text: &str) -> Vec<(String, String)> {
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_lines_with_a_name_and_the_rest_is_skipped() {
        let read = Environment::parse("# always\nA=1\n\nB=x=y\n");
        let expected = [("A", "1"), ("B", "x=y")];
        assert_eq!(
            read,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }
}
