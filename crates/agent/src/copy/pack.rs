//! Packs a file or a directory tree into an archive.

use super::failed;
use hyperfork_api::guest::Failure;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use tar::{Builder, Header};

/// Writes `path` as an archive whose entries begin with its last component, or
/// with `.` where it ends in `/.` or is the root directory. Links are archived as
/// links, sockets not at all.
///
/// # Errors
/// [`Failure::File`].
pub(super) fn pack(path: &str, archive: &mut impl Write) -> Result<(), Failure> {
    let contents_only = path.ends_with("/.") || path == ".";
    let name = Path::new(path).file_name().filter(|_| !contents_only);
    let name = name.map_or_else(|| PathBuf::from("."), PathBuf::from);
    let mut archive = Builder::new(archive);
    let mut waiting = vec![(PathBuf::from(path), name)];
    while let Some((path, name)) = waiting.pop() {
        let here = |error: io::Error| failed(&path, error);
        let metadata = fs::symlink_metadata(&path).map_err(here)?;
        append(&mut archive, &path, &name, &metadata).map_err(here)?;
        if metadata.is_dir() {
            for entry in fs::read_dir(&path).map_err(here)? {
                let entry = entry.map_err(here)?;
                waiting.push((entry.path(), name.join(entry.file_name())));
            }
        }
    }
    archive.finish().map_err(|error| failed(path, error))
}

fn append(
    archive: &mut Builder<impl Write>,
    path: &Path,
    name: &Path,
    metadata: &Metadata,
) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_socket() {
        return Ok(());
    }
    let mut header = Header::new_gnu();
    header.set_metadata(metadata);
    if kind.is_symlink() {
        return archive.append_link(&mut header, name, fs::read_link(path)?);
    }
    if !kind.is_file() {
        header.set_size(0);
        return archive.append_data(&mut header, name, io::empty());
    }
    // The file may change while it is read, but its size is already sent.
    let content = File::open(path)?.chain(io::repeat(0));
    archive.append_data(&mut header, name, content.take(metadata.len()))
}
