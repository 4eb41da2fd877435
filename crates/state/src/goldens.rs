//! Golden files: the encoding of a record, or of a whole captured machine, from when its version
//! was introduced. Only for tests.
//!
//! A golden file is never rewritten. To make the one of a new version:
//!
//! ```text
//! HYPERFORK_WRITE_GOLDENS=1 cargo test -p hyperfork-vmm --lib golden
//! ```

use crate::{Record, RecordType};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Set to have missing files made.
const WRITE: &str = "HYPERFORK_WRITE_GOLDENS";

/// Compares a sample's encoding with the golden file of its type and version, which is then
/// read back.
///
/// # Panics
/// When they differ, the file is missing, or cannot be read.
pub fn check_record<T: RecordType>(directory: &Path, sample: &T) {
    check_variant(directory, "", sample);
}

/// The same for one of several samples of a type, named by `variant`.
///
/// # Panics
/// As [`check_record`].
pub fn check_variant<T: RecordType>(directory: &Path, variant: &str, sample: &T) {
    let name = format!("{}-v{}{variant}.bin", T::KIND, T::VERSION);
    let record = Record::of(sample);
    let golden = golden(directory, &name, &record.bytes);
    let read: T = Record {
        bytes: golden.clone(),
        ..record
    }
    .decode()
    .unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(
        Record::of(&read).bytes == golden,
        "{name} is read as another"
    );
}

/// Compares `bytes` with the golden file `name`, and gives what is in it.
///
/// # Panics
/// When they differ, or the file is missing.
pub fn golden(directory: &Path, name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = directory.join(name);
    if std::env::var_os(WRITE).is_some() && !path.exists() {
        fs::create_dir_all(directory).expect("a directory for golden files");
        let file = File::create_new(&path);
        let written = file.and_then(|mut file| file.write_all(bytes));
        written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    let golden = fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error} ({WRITE}=1 makes it)", path.display()));
    let at = golden
        .iter()
        .zip(bytes)
        .position(|(one, other)| one != other);
    assert!(
        golden == bytes,
        "{name} has {} bytes and the sample {}; they differ from byte {at:?} on. What is \
         encoded has changed: that needs a new version, with a golden file of its own",
        golden.len(),
        bytes.len(),
    );
    golden
}
