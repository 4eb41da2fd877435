//! The corpora of the fuzz targets: the kept inputs, and those that a run has found.

use super::libfuzzer::libfuzzer;
use super::{directory, target_dir};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// How much there is in a corpus.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Size {
    inputs: u64,
    bytes: u64,
}

impl Size {
    pub(super) fn of(corpus: &Path) -> Result<Self> {
        let mut size = Self::default();
        for entry in fs::read_dir(corpus)? {
            size.inputs += 1;
            size.bytes += entry?.metadata()?.len();
        }
        Ok(size)
    }
}

/// Where the committed inputs of a target are.
pub(super) fn kept(target: &str) -> PathBuf {
    directory().join("corpus").join(target)
}

/// Where a run leaves what it finds.
pub(super) fn found(target: &str) -> PathBuf {
    target_dir().join("found").join(target)
}

/// Makes a directory, or empties it.
///
/// # Errors
/// The file system's.
pub(super) fn fresh(path: &Path) -> Result<PathBuf> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => fs::create_dir_all(path)?,
    }
    Ok(path.to_owned())
}

/// Replaces what is kept by the smallest inputs, of it and of what was found, that reach every
/// edge that all of them reach. How often an edge is passed does not count: that would make
/// corpora ten times as large, and is found again in seconds.
///
/// # Errors
/// When the inputs cannot be run.
pub(super) fn minimise(program: &Path, target: &str) -> Result<Size> {
    let (kept, found) = (kept(target), found(target));
    let smallest = fresh(&target_dir().join("smallest").join(target))?;
    let log = target_dir()
        .join("logs")
        .join(format!("{target}-merge.log"));
    let (mut command, _scratch) = libfuzzer(program, &log)?;
    command.args(["-set_cover_merge=1", "-use_counters=0"]);
    let status = command.arg(&smallest).arg(&kept).arg(found).status()?;
    if !status.success() {
        bail!(
            "cannot merge the corpora of {target}: see {}",
            log.display()
        );
    }
    fresh(&kept)?;
    for entry in fs::read_dir(&smallest)? {
        let entry = entry?;
        fs::copy(entry.path(), kept.join(entry.file_name()))?;
    }
    Size::of(&kept)
}
