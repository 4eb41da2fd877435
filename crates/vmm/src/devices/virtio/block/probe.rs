//! Detects an image's format by its first bytes.

use super::image_error::ImageError;
use hyperfork_api::spec::DiskFormat;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The first bytes of files in other formats, and what to do about them.
const FOREIGN: [(usize, &[u8], &str, &str); 9] = [
    (0, b"KDMV", "a VMDK image", CONVERT),
    (0, b"# Disk DescriptorFile", "a VMDK image", CONVERT),
    (0, b"vhdxfile", "a VHDX image", CONVERT),
    (0, b"conectix", "a VHD image", CONVERT),
    (64, &[0x7f, 0x10, 0xda, 0xbe], "a VDI image", CONVERT),
    (0, &[0x1f, 0x8b], "compressed", UNPACK),
    (0, &[0xfd, b'7', b'z', b'X', b'Z'], "compressed", UNPACK),
    (0, &[0x28, 0xb5, 0x2f, 0xfd], "compressed", UNPACK),
    (0, b"PK\x03\x04", "compressed", UNPACK),
];
const CONVERT: &str = "convert it with `qemu-img convert -O qcow2`";
const UNPACK: &str = "unpack it first";

/// What every qcow2 image begins with.
const QCOW2: &[u8] = b"QFI\xfb";

/// The format that an image seems to have.
///
/// # Errors
/// [`ImageError::Foreign`], or it cannot be read.
pub(super) fn probe(file: &File, path: &Path) -> Result<DiskFormat, ImageError> {
    let mut first = [0; 512];
    let len = file
        .read_at(&mut first, 0)
        .map_err(|source| ImageError::Open {
            path: path.to_owned(),
            source,
        })?;
    let first = &first[..len];
    let begins = |at: usize, mark: &[u8]| first.get(at..at + mark.len()) == Some(mark);
    if begins(0, QCOW2) {
        return Ok(DiskFormat::Qcow2);
    }
    match FOREIGN.iter().find(|(at, mark, ..)| begins(*at, mark)) {
        Some((_, _, what, remedy)) => Err(ImageError::Foreign {
            path: path.to_owned(),
            what,
            remedy,
        }),
        None => Ok(DiskFormat::Raw),
    }
}
