//! Where on this host a copy may be written. Nothing but a regular file is ever replaced: a
//! device, a pipe, a socket or a link would be lost, and what it stands for with it.

use anyhow::{Context, bail};
use std::fs::{self, FileType};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// The path that a copy to `target` is written to: where it leads, if it is a symbolic link, as
/// cp(1) and `docker cp` have it.
///
/// # Errors
/// It leads nowhere, or is neither a regular file nor a directory.
pub(crate) fn resolve(target: &Path) -> anyhow::Result<PathBuf> {
    let Some(kind) = kind_of(target)? else {
        return Ok(target.to_owned());
    };
    if !kind.is_symlink() {
        must_be_replaceable(target, kind)?;
        return Ok(target.to_owned());
    }
    let leads_to = fs::canonicalize(target).with_context(|| {
        let target = target.display();
        format!("{target} is a symbolic link that cannot be followed")
    })?;
    if let Some(kind) = kind_of(&leads_to)? {
        must_be_replaceable(target, kind)?;
    }
    Ok(leads_to)
}

/// Checks that the entry `name` of an archive may be unpacked into `directory`: nothing is at its
/// place, or what may be replaced. Names that lead out of the directory are refused when they are
/// unpacked.
///
/// # Errors
/// Something else is there.
pub(super) fn check_entry(directory: &Path, name: &Path) -> anyhow::Result<()> {
    let path = place_of(directory, name);
    match kind_of(&path)? {
        Some(kind) => must_be_replaceable(&path, kind),
        None => Ok(()),
    }
}

/// Whether the symbolic link `name` is in `directory` already, and leads to `leads_to`.
pub(super) fn is_link_to(directory: &Path, name: &Path, leads_to: &Path) -> bool {
    fs::read_link(place_of(directory, name)).is_ok_and(|there| there == leads_to)
}

/// Where an entry is unpacked. The root directory in a name is ignored then.
fn place_of(directory: &Path, name: &Path) -> PathBuf {
    let relative = name.strip_prefix("/").unwrap_or(name);
    directory.join(relative)
}

/// # Errors
/// What is at `path` is neither a regular file nor a directory.
fn must_be_replaceable(path: &Path, kind: FileType) -> anyhow::Result<()> {
    let what = match kind {
        kind if kind.is_file() || kind.is_dir() => return Ok(()),
        kind if kind.is_symlink() => "a symbolic link",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    bail!(
        "{} is {what}: a copy replaces regular files only",
        path.display()
    )
}

/// What `path` itself is; `None` if there is nothing, or it goes on below a file.
fn kind_of(path: &Path) -> io::Result<Option<FileType>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata.file_type())),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
            _ => Err(error),
        },
    }
}
