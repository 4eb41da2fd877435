//! Unpacks an archive.
//!
//! No entry reaches outside the directory that the archive is unpacked into:
//! the agent refuses names with `..`, and has the kernel follow links only while
//! they stay beneath that directory (openat2(2), `RESOLVE_BENEATH`).

use super::failed;
use hyperfork_api::frame::CHUNK;
use hyperfork_api::guest::Failure;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, chmodat,
    fchmod, futimens, linkat, mkdirat, mknodat, openat, openat2, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use tar::{Archive, Entry, EntryType};

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Unpacks an archive into `path` if that is a directory; otherwise its only
/// entry (with all that is below) becomes `path`.
///
/// # Errors
/// [`Failure::File`]; what was unpacked until then stays.
pub(super) fn unpack(path: &Path, archive: &mut impl Read) -> Result<(), Failure> {
    let mut target = Target::at(path).map_err(|error| failed(path, error))?;
    let here = |error: io::Error| failed(path, error);
    for entry in Archive::new(archive).entries().map_err(here)? {
        let mut entry = entry.map_err(here)?;
        let name = entry.path().map_err(here)?.into_owned();
        target
            .place(&mut entry, &name)
            .map_err(|error| failed(&name, error))?;
    }
    target.finish()
}

/// Where an archive goes.
struct Target {
    /// Entries' names begin here.
    base: OwnedFd,
    /// What the only entry is to be called.
    new_name: Option<OsString>,
    /// What that entry is called in the archive.
    only_entry: Option<OsString>,
    /// The directory that was last written into: the next entry's, most likely.
    latest: Option<(PathBuf, OwnedFd)>,
    /// Directories, which get their mode and time when nothing changes in them
    /// any more.
    directories: Vec<(PathBuf, Mode, Timestamps)>,
}

impl Target {
    fn at(path: &Path) -> io::Result<Self> {
        let (base, new_name) = match openat(CWD, path, DIRECTORY, Mode::empty()) {
            Ok(base) => (base, None),
            Err(Errno::NOENT | Errno::NOTDIR) => {
                let text = path.as_os_str().as_encoded_bytes();
                let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                    return Err(io::ErrorKind::NotFound.into());
                };
                if text.ends_with(b"/") {
                    return Err(io::ErrorKind::NotADirectory.into());
                }
                let parent = match parent {
                    empty if empty.as_os_str().is_empty() => Path::new("."),
                    parent => parent,
                };
                let base = openat(CWD, parent, DIRECTORY, Mode::empty())?;
                (base, Some(name.to_owned()))
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            base,
            new_name,
            only_entry: None,
            latest: None,
            directories: Vec::new(),
        })
    }

    fn place(&mut self, entry: &mut Entry<'_, impl Read>, name: &Path) -> io::Result<()> {
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        let path = self.inside(name)?;
        let Some(name) = path.file_name() else {
            // The archive's own root.
            return Ok(());
        };
        let mode = Mode::from_raw_mode(entry.header().mode()? & 0o7777);
        let times = modified_at(entry.header().mtime()?);
        let parent = path.parent().unwrap_or(Path::new("")).to_owned();
        let directory = self.directory(&parent)?;
        if kind.is_dir() {
            make_directory(directory, name)?;
            self.directories.push((path, mode, times));
            return Ok(());
        }
        match unlinkat(directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                write_file(entry, directory, name, mode, &times)
            }
            EntryType::Symlink => Ok(symlinkat(link_of(entry)?, directory, name)?),
            EntryType::Fifo => {
                mknodat(directory, name, FileType::Fifo, mode, 0)?;
                Ok(chmodat(directory, name, mode, AtFlags::empty())?)
            }
            EntryType::Link => self.link(&link_of(entry)?, &parent, name),
            _ => Err(io::Error::other("entries of this kind are not unpacked")),
        }
    }

    fn link(&mut self, to: &Path, parent: &Path, name: &OsStr) -> io::Result<()> {
        let to = self.inside(to)?;
        let to_directory = open_beneath(&self.base, to.parent().unwrap_or(Path::new("")))?;
        let to_name = to.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let directory = self.directory(parent)?;
        Ok(linkat(
            to_directory,
            to_name,
            directory,
            name,
            AtFlags::empty(),
        )?)
    }

    /// An entry's name as a path from the base on.
    fn inside(&mut self, name: &Path) -> io::Result<PathBuf> {
        let mut path = PathBuf::new();
        for component in name.components() {
            match component {
                Component::Normal(part) => path.push(part),
                Component::RootDir | Component::CurDir => {}
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(io::Error::other("the name leads out of the archive"));
                }
            }
        }
        let Some(new_name) = &self.new_name else {
            return Ok(path);
        };
        let mut parts = path.iter();
        let first = parts.next().map(OsStr::to_owned);
        let only = self.only_entry.get_or_insert_with(|| {
            // `.` as the archive's root stands for itself.
            first.clone().unwrap_or_default()
        });
        if only.is_empty() {
            return Ok(Path::new(new_name).join(path));
        }
        if first.as_ref() != Some(only) {
            return Err(io::Error::other(
                "the archive has more than one entry, and the path is not a directory",
            ));
        }
        Ok(Path::new(new_name).join(parts.as_path()))
    }

    /// The directory at `path`, made if it is not there.
    fn directory(&mut self, path: &Path) -> io::Result<&OwnedFd> {
        if self
            .latest
            .as_ref()
            .is_none_or(|(latest, _)| latest != path)
        {
            let directory = match open_beneath(&self.base, path) {
                Err(Errno::NOENT) => make_directories(&self.base, path)?,
                other => other?,
            };
            self.latest = Some((path.to_owned(), directory));
        }
        self.latest
            .as_ref()
            .map(|(_, directory)| directory)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn finish(self) -> Result<(), Failure> {
        // Those inside others first, or their changes would show in the others'.
        for (path, mode, times) in self.directories.iter().rev() {
            let set = || -> io::Result<()> {
                let parent = open_beneath(&self.base, path.parent().unwrap_or(Path::new("")))?;
                let name = path.file_name().unwrap_or_default();
                chmodat(&parent, name, *mode, AtFlags::empty())?;
                utimensat(&parent, name, times, AtFlags::SYMLINK_NOFOLLOW)?;
                Ok(())
            };
            set().map_err(|error| failed(path, error))?;
        }
        Ok(())
    }
}

fn open_beneath(base: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let path = match path {
        empty if empty.as_os_str().is_empty() => Path::new("."),
        path => path,
    };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(base, path, DIRECTORY, Mode::empty(), resolve)
}

fn make_directories(base: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let mut so_far = PathBuf::new();
    let mut directory = open_beneath(base, &so_far)?;
    for part in path {
        make_directory(&directory, part)?;
        so_far.push(part);
        directory = open_beneath(base, &so_far)?;
    }
    Ok(directory)
}

/// Makes a directory, if it is not there.
fn make_directory(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => {
            openat(parent, name, DIRECTORY, Mode::empty())?;
            Ok(())
        }
        other => Ok(other?),
    }
}

fn write_file(
    entry: &mut Entry<'_, impl Read>,
    directory: &OwnedFd,
    name: &OsStr,
    mode: Mode,
    times: &Timestamps,
) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(openat(directory, name, flags, Mode::from_raw_mode(0o600))?);
    let mut missing = entry.size();
    let mut chunk = vec![0; CHUNK];
    loop {
        match entry.read(&mut chunk)? {
            0 => break,
            len => {
                file.write_all(&chunk[..len])?;
                missing = missing.saturating_sub(len as u64);
            }
        }
    }
    if missing > 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    fchmod(&file, mode)?;
    Ok(futimens(&file, times)?)
}

fn link_of(entry: &Entry<'_, impl Read>) -> io::Result<PathBuf> {
    let link = entry.link_name()?;
    let link = link.ok_or_else(|| io::Error::other("a link that leads nowhere"))?;
    Ok(link.into_owned())
}

fn modified_at(seconds: u64) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: seconds.try_into().unwrap_or(i64::MAX),
            tv_nsec: 0,
        },
    }
}
