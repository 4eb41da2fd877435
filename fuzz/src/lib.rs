//! What several fuzz targets have in common.

use rustix::fs::{Timespec, Timestamps, futimens};
use serde::{Serialize, de::DeserializeOwned};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use tempfile::TempDir;

/// Checks that what is decoded can be encoded, and decodes to the same: `recode` gives what
/// bytes say in the encoder's own words, or `None` where they are no message.
///
/// # Panics
/// When it is not so.
pub fn check_recoding(bytes: &[u8], recode: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    if let Some(once) = recode(bytes) {
        let again = recode(&once).expect("what was encoded can be decoded");
        assert_eq!(again, once, "decoding and encoding changes a message");
    }
}

/// Reads a line of JSON as a message, and checks that it is written and read as the same.
///
/// # Panics
/// When it is not so.
pub fn check_json<T: Serialize + DeserializeOwned + PartialEq>(line: &[u8]) {
    let Ok(message) = serde_json::from_slice::<T>(line) else {
        return;
    };
    let written = serde_json::to_vec(&message).expect("messages can be written");
    assert!(!written.contains(&b'\n'), "a message is a line");
    let read = serde_json::from_slice::<T>(&written).expect("what was written can be read");
    assert!(read == message, "writing and reading changes a message");
}

/// A directory in memory: in the one that `cargo xtask fuzz` makes and removes, if that runs the
/// process, which may be killed and cannot remove it itself.
pub static SCRATCH: LazyLock<TempDir> = LazyLock::new(|| {
    let made = tempfile::Builder::new()
        .prefix("hyperfork-fuzz-")
        .tempdir_in(std::env::var_os("HYPERFORK_FUZZ_SCRATCH").unwrap_or("/dev/shm".into()));
    made.expect("a directory in memory")
});

/// Something that must never be changed. It notices by the time of the last change, which is
/// set to long ago.
pub struct Untouched(PathBuf);

impl Untouched {
    /// A file or directory at `path`, which exists.
    ///
    /// # Errors
    /// The file system's.
    pub fn new(path: &Path) -> io::Result<Self> {
        let long_ago = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let times = Timestamps {
            last_access: long_ago,
            last_modification: long_ago,
        };
        futimens(File::open(path)?, &times)?;
        Ok(Self(path.to_owned()))
    }

    /// # Panics
    /// When it was changed.
    pub fn check(&self) {
        let meta = fs::symlink_metadata(&self.0).expect("it was not removed");
        assert_eq!(meta.mtime(), 0, "{} was changed", self.0.display());
    }
}

/// A directory to work in, beside files that are none of its business.
pub struct Fenced {
    /// The directory.
    pub inside: PathBuf,
    outside: [Untouched; 2],
}

impl Fenced {
    /// # Panics
    /// When there is no room for it.
    pub fn new() -> Self {
        let parent = SCRATCH.path().join("fenced");
        let inside = parent.join("inside");
        fs::create_dir_all(&inside).expect("a directory");
        fs::write(parent.join("secret"), "secret").expect("a file");
        let outside = [parent.clone(), parent.join("secret")];
        Self {
            outside: outside.map(|path| Untouched::new(&path).expect("a file")),
            inside,
        }
    }

    /// Checks that nothing beside the directory has changed, and empties it.
    ///
    /// # Panics
    /// When something has.
    pub fn check_and_empty(&self) {
        self.outside.iter().for_each(Untouched::check);
        for entry in fs::read_dir(&self.inside).expect("a directory").flatten() {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed = match is_dir {
                true => fs::remove_dir_all(entry.path()),
                false => fs::remove_file(entry.path()),
            };
            removed.expect("what was made can be removed");
        }
    }
}

impl Default for Fenced {
    fn default() -> Self {
        Self::new()
    }
}
