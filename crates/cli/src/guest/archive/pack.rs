//! A file or a tree of this host as an archive.

use anyhow::Context;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use tar::{Builder, Header};

/// Writes `path` as an archive whose entries begin with its last component, or
/// with `.` where it has none or ends in `/.`. Links are archived as links,
/// sockets not at all.
///
/// # Errors
/// A file that cannot be read, or `archive`'s.
pub(crate) fn pack(path: &Path, archive: &mut impl Write) -> anyhow::Result<()> {
    let contents_only = path.as_os_str().as_encoded_bytes().ends_with(b"/.");
    let name = path.file_name().filter(|_| !contents_only);
    let name = name.map_or_else(|| PathBuf::from("."), PathBuf::from);
    let mut archive = Builder::new(archive);
    let mut waiting = vec![(path.to_owned(), name)];
    while let Some((path, name)) = waiting.pop() {
        let here = || path.display().to_string();
        let metadata = fs::symlink_metadata(&path).with_context(here)?;
        append(&mut archive, &path, &name, &metadata).with_context(here)?;
        if metadata.is_dir() {
            for entry in fs::read_dir(&path).with_context(here)? {
                let entry = entry.with_context(here)?;
                waiting.push((entry.path(), name.join(entry.file_name())));
            }
        }
    }
    Ok(archive.finish()?)
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
    // The file may change while it is read, but its size is already in the header.
    let content = File::open(path)?.chain(io::repeat(0));
    archive.append_data(&mut header, name, content.take(metadata.len()))
}
