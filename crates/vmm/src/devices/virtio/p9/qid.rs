//! Qids: the identity and version of a file.

use super::tree::kind;
use super::wire::Encoder;
use rustix::fs::{FileType, Stat};

/// Writes the qid of the file that `stat` is about.
pub(super) fn put_qid(out: &mut Encoder, stat: &Stat) {
    let version =
        (stat.st_mtime as u32).rotate_left(16) ^ stat.st_mtime_nsec as u32 ^ stat.st_size as u32;
    put_raw_qid(
        out,
        kind(stat),
        version,
        stat.st_ino ^ stat.st_dev.rotate_left(48),
    );
}

/// Writes a qid of these parts.
pub(super) fn put_raw_qid(out: &mut Encoder, kind: FileType, version: u32, path: u64) {
    const DIRECTORY: u8 = 0x80;
    const SYMLINK: u8 = 2;
    out.u8(match kind {
        FileType::Directory => DIRECTORY,
        FileType::Symlink => SYMLINK,
        _ => 0,
    });
    out.u32(version);
    out.u64(path);
}
