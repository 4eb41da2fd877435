//! Copies a root disk with another size.

use crate::{Tool, ToolError};
use std::path::Path;

/// Makes a copy of a root disk at `target` whose file system, and so the disk, has
/// `bytes`, a multiple of 4 KiB. Free space takes no storage.
///
/// # Errors
/// What is in the file system does not fit; the host's disk is full; `e2fsprogs` is not
/// there.
pub fn resize(rootfs: &Path, bytes: u64, target: &Path) -> Result<(), ToolError> {
    let copy = Tool::new("cp").args(["--sparse=always", "--reflink=auto", "--"]);
    copy.arg(rootfs).arg(target).run(|_| ())?;
    let resize = Tool::new("resize2fs").arg(target);
    resize.arg(format!("{}K", bytes >> 10)).run(|_| ())
}
