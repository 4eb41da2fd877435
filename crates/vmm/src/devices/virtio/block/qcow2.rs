//! Reads images in QEMU's format, with the library `imago` (ADR 14).

use crate::blobs::{BlobReader, BlobWriter};
use hyperfork_api::spec::DiskFormat;
use hyperfork_state::{BlobRef, BlobRole};
use imago::{FormatAccess, file, qcow2, raw};
use serde::{Deserialize, Serialize};
use std::cell::OnceCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};

/// The library's names for files and images in them.
type Storage = file::File;
type Image = FormatAccess<Storage>;
type Header = qcow2::Qcow2<Storage, Image>;

/// An image and its backing files.
pub struct Qcow2 {
    /// From the image downwards.
    files: Vec<(File, DiskFormat)>,
    len: u64,
    /// Opened at the first read in a clone, so that a clone that never reads need not.
    image: OnceCell<Image>,
}

/// An image at rest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Qcow2State {
    files: Vec<(BlobRef, DiskFormat)>,
    len: u64,
}

impl Qcow2State {
    pub(super) fn blobs(&self) -> Vec<BlobRef> {
        self.files.iter().map(|(file, _)| *file).collect()
    }
}

#[cfg(test)]
impl Qcow2State {
    /// For golden files: never changed.
    pub(crate) fn sample() -> Self {
        Self {
            files: vec![
                (BlobRef(3), DiskFormat::Qcow2),
                (BlobRef(4), DiskFormat::Raw),
            ],
            len: 5 << 30,
        }
    }
}

impl std::fmt::Debug for Qcow2 {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = formatter.debug_struct("Qcow2");
        shown.field("files", &self.files).field("len", &self.len);
        shown.finish_non_exhaustive()
    }
}

impl Qcow2 {
    /// An image made of these files, from the image downwards.
    ///
    /// # Errors
    /// When the library does not understand one of them.
    pub fn open(files: Vec<(File, DiskFormat)>) -> io::Result<Self> {
        let image = open(&files)?;
        Ok(Self {
            files,
            len: image.size(),
            image: OnceCell::from(image),
        })
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.len
    }

    /// Fills `buffer` from byte `offset` on.
    ///
    /// # Errors
    /// As `pread(2)`; when the image is damaged there.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let image = match self.image.get() {
            Some(image) => image,
            None => {
                let image = open(&self.files)?;
                self.image.get_or_init(|| image)
            }
        };
        image.read(buffer, offset)
    }

    /// Shares it with a clone.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn save(&self, blobs: &mut BlobWriter) -> io::Result<Qcow2State> {
        let files = self.files.iter().map(|(file, format)| {
            let len = file.metadata()?.len();
            let blob = blobs.put(file, BlobRole::DiskImage, len)?;
            Ok((blob, *format))
        });
        Ok(Qcow2State {
            files: files.collect::<io::Result<_>>()?,
            len: self.len,
        })
    }

    /// Restores the parent's image in a clone.
    ///
    /// # Errors
    /// As [`open`](Self::open); when the process is out of descriptors.
    pub fn restore(state: &Qcow2State, blobs: BlobReader<'_>) -> io::Result<Self> {
        let files = state.files.iter();
        let files = files.map(|(file, format)| Ok((File::from(blobs.open(*file)?), *format)));
        let files = files.collect::<io::Result<Vec<_>>>()?;
        // Opening asks for a block device's length by an ioctl, which the device thread may not
        // make.
        let mut devices = files.iter().filter(|(file, _)| is_device(file));
        let image = match devices.next() {
            Some(_) => OnceCell::from(open(&files)?),
            None => OnceCell::new(),
        };
        Ok(Self {
            files,
            len: state.len,
            image,
        })
    }
}

fn is_device(file: &File) -> bool {
    let meta = file.metadata();
    meta.is_ok_and(|meta| meta.file_type().is_block_device())
}

fn open(files: &[(File, DiskFormat)]) -> io::Result<Image> {
    let mut below = None;
    for (file, format) in files.iter().rev() {
        below = Some(match format {
            DiskFormat::Raw => Image::new(raw::Raw::open_image(storage(file)?, false)?),
            DiskFormat::Qcow2 => {
                let mut image = header(file)?;
                // The library must not open files that the header names: they are in `files`, or
                // were refused.
                image.set_data_file(None);
                image.set_backing(below.take());
                Image::new(image)
            }
        });
    }
    below.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn storage(file: &File) -> io::Result<Storage> {
    Storage::try_from(file.try_clone()?)
}

/// Opens an image with the library, unless its header would make the library panic.
fn header(file: &File) -> io::Result<Header> {
    if names_are_cut(file).unwrap_or(false) {
        let message = "its table of feature names is cut";
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Header::open_image(storage(file)?, false)
}

/// Whether the table of feature names ends within an entry, at which the library panics. The
/// library itself reports all else that is wrong with a header.
///
/// # Errors
/// When the header is cut.
fn names_are_cut(file: &File) -> io::Result<bool> {
    /// The type of this header extension, and the length of an entry
    /// (QEMU's docs/interop/qcow2.rst, "Feature name table").
    const FEATURE_NAMES: u32 = 0x6803_f857;
    const ENTRY: u32 = 48;
    /// Clusters have 2 MiB at most.
    const CLUSTER_BITS_MAX: u32 = 21;
    let field = |at| -> io::Result<u32> {
        let mut field = [0; 4];
        file.read_exact_at(&mut field, at)?;
        Ok(u32::from_be_bytes(field))
    };
    let (version, cluster_bits, mut at) = (field(4)?, field(20)?, u64::from(field(100)?));
    // All extensions lie in the first cluster.
    let end = 1 << cluster_bits.min(CLUSTER_BITS_MAX);
    while version > 2 && at < end {
        let (kind, len) = (field(at)?, field(at + 4)?);
        match kind {
            0 => break,
            FEATURE_NAMES if !len.is_multiple_of(ENTRY) => return Ok(true),
            _ => at += 8 + u64::from(len).next_multiple_of(8),
        }
    }
    Ok(false)
}

/// The other files that the header of an image names.
#[derive(Debug)]
pub struct ExternalFiles {
    /// Name and format of the backing file.
    pub backing: Option<(String, Option<String>)>,
    /// Whether its data is in an external data file.
    pub has_data_file: bool,
}

/// Reads from the header in `file` which other files the image needs.
///
/// # Errors
/// When the library does not understand it.
pub fn external_files(file: &File) -> io::Result<ExternalFiles> {
    let header = header(file)?;
    let backing = header.implicit_backing_file().cloned();
    Ok(ExternalFiles {
        backing: backing.map(|name| (name, header.implicit_backing_format().cloned())),
        has_data_file: header.requires_external_data_file(),
    })
}
