//! Memory files (memfd_create(2)), and the seals that make one safe to share.
//!
//! ```text
//! MemoryFile ──freeze──> FrozenFile    seals SHRINK, GROW, FUTURE_WRITE: existing mappings may
//!     │                      │         still write, but there are no new writers
//!     │                   complete
//!     │                      v
//!     └──────complete──> FrozenFile    and WRITE: it never changes again
//! ```
//!
//! A [`MemoryFile`] can be written and stays in its process. A [`FrozenFile`] is read-only; it is
//! all that is handed over, and the only thing that is accepted from another process.

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// What a file must carry before another process gets it (`F_ADD_SEALS` of fcntl(2), Linux
/// 5.1): it cannot be written by its descriptors, mapped for writing, have holes punched into
/// it, or change its length.
const FROZEN: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::FUTURE_WRITE);

/// A new, empty memory file of `len` bytes. `name` shows in `/proc/*/maps`.
///
/// # Errors
/// Out of descriptors or memory.
pub fn create(name: &str, len: u64) -> io::Result<File> {
    let file = File::from(rustix::fs::memfd_create(
        name,
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?);
    file.set_len(len)?;
    Ok(file)
}

/// A memory file that this process fills. Its descriptor is writable, so it must not leave the
/// process.
#[derive(Debug)]
pub struct MemoryFile {
    file: File,
    /// Opened in advance, because that takes ten times as long as the rest of freezing.
    reader: Arc<File>,
}

/// A memory file that admits no new writers, with a read-only descriptor.
#[derive(Debug, Clone)]
pub struct FrozenFile(Arc<File>);

/// Why a memory file could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The kernel has no such seal (before Linux 5.1), or the file takes no more of them.
    #[error("a memory file cannot be sealed against new writers")]
    Freeze(#[source] io::Error),
    /// It is still mapped for writing, or one of its pages is in use.
    #[error("a memory file cannot be sealed for good")]
    Complete(#[source] io::Error),
}

/// Why a received descriptor is not taken for a [`FrozenFile`].
#[derive(Debug, thiserror::Error)]
pub enum NotFrozen {
    /// It could be written.
    #[error("the descriptor of a memory file is not read-only")]
    Writable,
    /// The file could be.
    #[error("a memory file lacks the seals {missing:?}")]
    Unsealed {
        /// Those that are not there.
        missing: SealFlags,
    },
    /// It is of a kind that has no seals.
    #[error("what should be a memory file has no seals")]
    NoSeals(#[source] io::Error),
    /// The system's reason.
    #[error("a memory file cannot be looked at")]
    Look(#[source] io::Error),
}

impl From<SealError> for io::Error {
    fn from(error: SealError) -> Self {
        let (SealError::Freeze(source) | SealError::Complete(source)) = &error;
        Self::new(source.kind(), error)
    }
}

impl From<NotFrozen> for io::Error {
    fn from(error: NotFrozen) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

impl MemoryFile {
    /// A new, empty one of `len` bytes. `name` shows in `/proc/*/maps`.
    ///
    /// # Errors
    /// Out of descriptors or memory; without `/proc`.
    pub fn create(name: &str, len: u64) -> io::Result<Self> {
        let file = create(name, len)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let reader = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self {
            file,
            reader: Arc::new(reader.into()),
        })
    }

    /// Seals it against new writers. Existing shared writable mappings may still write, but no hole
    /// can be punched any more, not even through those.
    ///
    /// # Errors
    /// [`SealError::Freeze`]. The file is then as it was.
    pub fn freeze(&self) -> Result<FrozenFile, SealError> {
        rustix::fs::fcntl_add_seals(&self.file, FROZEN)
            .map_err(|error| SealError::Freeze(error.into()))?;
        Ok(FrozenFile(self.reader.clone()))
    }

    /// Seals it against every change, by any process. It may take up to a second: the kernel
    /// refuses while a page is pinned, as by I/O.
    ///
    /// # Errors
    /// [`SealError::Complete`], with `EBUSY` while it is mapped shared and writable.
    pub fn complete(self) -> Result<FrozenFile, SealError> {
        const ATTEMPTS: u32 = 20;
        const PAUSE: Duration = Duration::from_millis(50);
        let all = FROZEN | SealFlags::WRITE | SealFlags::SEAL;
        for attempt in 1.. {
            match rustix::fs::fcntl_add_seals(&self.file, all) {
                Err(rustix::io::Errno::BUSY) if attempt < ATTEMPTS => thread::sleep(PAUSE),
                Err(error) => return Err(SealError::Complete(error.into())),
                Ok(()) => break,
            }
        }
        Ok(FrozenFile(self.reader))
    }
}

/// To fill it.
impl Deref for MemoryFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl AsFd for MemoryFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl FrozenFile {
    /// Takes a descriptor that came from another process, if neither that process nor any
    /// other that has it can write the file.
    ///
    /// # Errors
    /// [`NotFrozen`].
    pub fn receive(fd: OwnedFd) -> Result<Self, NotFrozen> {
        let flags = rustix::fs::fcntl_getfl(&fd).map_err(|error| NotFrozen::Look(error.into()))?;
        if flags & OFlags::RWMODE != OFlags::RDONLY {
            return Err(NotFrozen::Writable);
        }
        let seals =
            rustix::fs::fcntl_get_seals(&fd).map_err(|error| NotFrozen::NoSeals(error.into()))?;
        let missing = FROZEN.difference(seals);
        match missing.is_empty() {
            true => Ok(Self(Arc::new(fd.into()))),
            false => Err(NotFrozen::Unsealed { missing }),
        }
    }
}

/// To read it.
impl Deref for FrozenFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl AsFd for FrozenFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hole;
    use crate::mapping::Mapping;
    use std::os::unix::fs::FileExt;

    const LEN: usize = 4 << 12;

    fn filled() -> MemoryFile {
        let file = MemoryFile::create("test", LEN as u64).unwrap();
        file.write_all_at(&[7; LEN], 0).unwrap();
        file
    }

    fn handed_over(file: &FrozenFile) -> OwnedFd {
        file.as_fd().try_clone_to_owned().unwrap()
    }

    fn shared(fd: impl AsFd) -> io::Result<()> {
        Mapping::reserve(LEN).unwrap().place_shared(fd)
    }

    #[test]
    fn a_frozen_file_can_be_read_and_mapped_privately_and_nothing_else() {
        let file = filled();
        let mut writer = Mapping::reserve(LEN).unwrap();
        writer.place_shared(&file).unwrap();
        let received = FrozenFile::receive(handed_over(&file.freeze().unwrap())).unwrap();
        // The descriptor that wrote it can do no more than the one that was handed over, nor
        // can a new one.
        let path = format!("/proc/self/fd/{}", received.as_raw_fd());
        let again = File::options().read(true).write(true).open(path).unwrap();
        for file in [&*received, &*file, &again] {
            assert!(file.write_at(&[1], 0).is_err());
            assert!(file.set_len(0).is_err());
            assert!(file.set_len(2 * LEN as u64).is_err());
            assert!(hole::punch(file, 0..4096).is_err());
            assert!(shared(file).is_err());
        }
        let mut mapping = Mapping::reserve(LEN).unwrap();
        mapping.place_private(&received).unwrap();
        mapping.populate_write(0, 4096).unwrap();
        // The mapping that was there before goes on writing.
        // SAFETY: inside the mapping, which only this test uses.
        unsafe { writer.base().write_volatile(9) };
        let mut first = [0; 2];
        received.read_exact_at(&mut first, 0).unwrap();
        assert_eq!(first, [9, 7]);
    }

    #[test]
    fn a_file_without_its_seals_or_with_a_descriptor_that_writes_is_refused() {
        let file = filled();
        let reader = file.reader.try_clone().unwrap();
        let refused = FrozenFile::receive(reader.into()).unwrap_err();
        assert!(matches!(refused, NotFrozen::Unsealed { missing } if missing == FROZEN));
        rustix::fs::fcntl_add_seals(&*file, SealFlags::SHRINK | SealFlags::GROW).unwrap();
        let reader = file.reader.try_clone().unwrap();
        let refused = FrozenFile::receive(reader.into()).unwrap_err();
        let future_write = SealFlags::FUTURE_WRITE;
        assert!(matches!(refused, NotFrozen::Unsealed { missing } if missing == future_write));
        file.freeze().unwrap();
        let writer = file.file.try_clone().unwrap();
        let refused = FrozenFile::receive(writer.into()).unwrap_err();
        assert!(matches!(refused, NotFrozen::Writable));
        let other = File::open("/dev/null").unwrap();
        let refused = FrozenFile::receive(other.into()).unwrap_err();
        assert!(matches!(refused, NotFrozen::NoSeals(_)));
    }

    #[test]
    fn a_file_that_takes_no_more_seals_is_not_frozen_and_can_still_be_written() {
        let file = filled();
        rustix::fs::fcntl_add_seals(&*file, SealFlags::SEAL).unwrap();
        let refused = file.freeze().unwrap_err();
        assert!(matches!(refused, SealError::Freeze(_)));
        file.write_all_at(&[1], 0).unwrap();
    }

    #[test]
    fn a_complete_file_is_changed_by_no_one() {
        let file = filled();
        let mut writer = Mapping::reserve(LEN).unwrap();
        writer.place_shared(&file).unwrap();
        drop(writer);
        let frozen = file.complete().unwrap();
        let seals = rustix::fs::fcntl_get_seals(&frozen).unwrap();
        assert!(seals.contains(FROZEN | SealFlags::WRITE | SealFlags::SEAL));
        FrozenFile::receive(handed_over(&frozen)).unwrap();
    }
}
