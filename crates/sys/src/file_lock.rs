//! Locks of an open file (fcntl(2), "Open file description locks"): they are shared by
//! all descriptors that stem from one `open(2)`, in whatever process, and go with the
//! last.

use super::check;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;

/// Keeps others from locking byte `at` of `file` for writing. The file must be open for
/// reading.
///
/// # Errors
/// `WouldBlock` when another opener has it locked for writing; the file system's, when it has
/// no locks.
pub fn share(file: &File, at: i64) -> io::Result<()> {
    let lock = byte(libc::F_RDLCK, at);
    // SAFETY: F_OFD_SETLK reads one `flock`, which outlives the call.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) }).map(drop)
}

/// Whether another open file description has byte `at` of `file` locked.
///
/// # Errors
/// The file system's, when it has no locks.
pub fn is_locked(file: &File, at: i64) -> io::Result<bool> {
    let mut lock = byte(libc::F_WRLCK, at);
    // SAFETY: F_OFD_GETLK reads and writes one `flock`, which outlives the call.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) })?;
    Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
}

fn byte(kind: libc::c_int, at: i64) -> libc::flock {
    // SAFETY: all-zero bytes are a valid `flock`. The process number must be 0.
    let mut lock: libc::flock = unsafe { mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    (lock.l_start, lock.l_len) = (at, 1);
    lock
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_belongs_to_an_open_file_and_is_seen_by_those_who_opened_it_themselves() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::open(file.path()).unwrap();
        let (mine, another) = (open(), open());
        share(&mine, 7).unwrap();
        let copy = mine.try_clone().unwrap();
        drop(mine);
        assert!(!is_locked(&copy, 7).unwrap());
        assert!(is_locked(&another, 7).unwrap());
        assert!(!is_locked(&another, 8).unwrap());
        share(&another, 7).unwrap();
        drop(copy);
        assert!(!is_locked(&another, 7).unwrap());
        assert!(is_locked(&open(), 7).unwrap());
    }
}
