//! Opens the backing files of a qcow2 image. An image from an untrusted source can name any file of
//! the host, so only files in the image's own directory or below it are opened.

use super::image_error::{FILES_MAX, ImageError, broken};
use super::image_file::{OPEN_FLAGS, ready};
use super::qcow2;
use hyperfork_api::spec::DiskFormat;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A qcow2 image, and the backing files found so far.
pub(super) struct Chain {
    image: PathBuf,
    dir: OwnedFd,
    dir_path: PathBuf,
    files: Vec<(File, DiskFormat)>,
}

impl Chain {
    /// The chain of an image, with no files yet.
    ///
    /// # Errors
    /// When its directory cannot be opened.
    pub(super) fn new(image: &Path) -> Result<Self, ImageError> {
        let dir_path = match image.parent() {
            Some(dir) if dir != Path::new("") => dir,
            _ => Path::new("."),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, dir_path, flags, Mode::empty()).map_err(|errno| {
            let (path, source) = (dir_path.to_owned(), errno.into());
            ImageError::Open { path, source }
        })?;
        Ok(Self {
            image: image.to_owned(),
            dir,
            dir_path: dir_path.to_owned(),
            files: Vec::new(),
        })
    }

    /// Opens all files, from the image downwards.
    ///
    /// # Errors
    /// [`ImageError`].
    pub(super) fn follow(mut self, image: File) -> Result<Vec<(File, DiskFormat)>, ImageError> {
        let name = self.image.file_name().unwrap_or_default();
        let mut next = Some((image, DiskFormat::Qcow2, PathBuf::from(name)));
        while let Some((file, format, name)) = next {
            next = match format {
                DiskFormat::Raw => None,
                DiskFormat::Qcow2 => self.below(&file, &name)?,
            };
            self.files.push((file, format));
        }
        Ok(self.files)
    }

    /// The backing file of the qcow2 image `file`, which has this path in the directory.
    fn below(
        &self,
        file: &File,
        name: &Path,
    ) -> Result<Option<(File, DiskFormat, PathBuf)>, ImageError> {
        let path = self.dir_path.join(name);
        let external = qcow2::external_files(file).map_err(broken(&path))?;
        if is_encrypted(file).map_err(broken(&path))? {
            return Err(ImageError::Encrypted(path));
        }
        if external.has_data_file {
            return Err(ImageError::ExternalData(path));
        }
        let Some((backing, format)) = external.backing else {
            return Ok(None);
        };
        let format = match format.as_deref() {
            Some("raw") => DiskFormat::Raw,
            Some("qcow2") => DiskFormat::Qcow2,
            _ => {
                return Err(ImageError::BackingFormat {
                    path,
                    backing,
                    format,
                });
            }
        };
        if self.files.len() + 2 > FILES_MAX {
            return Err(ImageError::TooDeep {
                path: self.image.clone(),
            });
        }
        let name = self.within(name, Path::new(&backing));
        let opened = name.as_ref().map(|name| {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
            openat2(&self.dir, name, OPEN_FLAGS, Mode::empty(), resolve)
        });
        let (opened, name) = match (opened, name) {
            (Some(Ok(opened)), Some(name)) => (opened, name),
            (Some(Err(errno)), _) if errno != rustix::io::Errno::XDEV => {
                let path = self.dir_path.join(backing);
                let source = errno.into();
                return Err(ImageError::Open { path, source });
            }
            _ => return Err(ImageError::Escapes { path, backing }),
        };
        let mut above = self.files.iter().map(|(file, _)| file).chain([file]);
        if above.any(|file| is_same(file, &opened)) {
            return Err(ImageError::Loop { path, backing });
        }
        let opened = ready(opened, &self.dir_path.join(&name))?;
        Ok(Some((opened, format, name)))
    }

    /// The path within the directory of the file that the image at `name` calls `backing`.
    fn within(&self, name: &Path, backing: &Path) -> Option<PathBuf> {
        match backing.is_absolute() {
            true => backing
                .strip_prefix(&self.dir_path)
                .ok()
                .map(Path::to_owned),
            false => Some(name.parent()?.join(backing)),
        }
    }
}

/// Whether the header's field `crypt_method` is set, which the library does not check.
fn is_encrypted(file: &File) -> io::Result<bool> {
    let mut method = [0; 4];
    file.read_exact_at(&mut method, 32)?;
    Ok(method != [0; 4])
}

fn is_same(one: impl AsFd, other: impl AsFd) -> bool {
    match (fstat(one), fstat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}
