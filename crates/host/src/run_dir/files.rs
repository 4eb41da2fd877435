//! Looking at a VM's directory without trusting what lies there.
//!
//! The user may have put other things into the run directory, or under the names of a VM's
//! files. A symbolic link is not followed, a FIFO is not waited for, and looking makes no file.

use super::VmDir;
use rustix::fs::{Mode, OFlags, open, openat};
use std::fs::{self, File};
use std::io::{self, Read};
use std::thread;
use std::time::Duration;

/// The name of the file that the VM's process has locked as long as it lives.
pub(super) const LOCK: &str = "lock";

/// The name of the file with the VM's last description.
pub(crate) const INFO: &str = "info.json";

/// The first byte of a description that is being written over. No JSON begins with it.
pub(crate) const UNFINISHED: u8 = 0;

/// How often to read a description again that is being written over, which takes microseconds
/// if the writer has a processor. A process that was killed meanwhile leaves it unfinished.
const READS: u32 = 50;

/// How long to wait before that.
const READ_INTERVAL: Duration = Duration::from_millis(1);

impl VmDir {
    /// Opens a file of the directory, if that is a directory and the file a regular one.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` or another one for what is no regular file; the system's.
    pub(crate) fn open(&self, file: &str, how: OFlags) -> io::Result<File> {
        let dir = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = open(&self.path, dir, Mode::empty())?;
        let how = how | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(openat(dir, file, how, Mode::RUSR | Mode::WUSR)?);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// The text of the VM's last description: never half of one, although a VM that finds no room
    /// for a new file writes over it in place.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn read_info(&self) -> io::Result<Vec<u8>> {
        let mut text = self.read(INFO)?;
        for _ in 0..READS {
            let again = self.read(INFO)?;
            if again == text && text.first() != Some(&UNFINISHED) {
                break;
            }
            text = again;
            thread::sleep(READ_INTERVAL);
        }
        Ok(text)
    }

    /// The content of a file that is opened as [`open`](Self::open) does.
    pub(super) fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        let mut file = self.open(file, OFlags::RDONLY)?;
        file.read_to_end(&mut content)?;
        Ok(content)
    }

    /// Whether there is anything of this name in the directory.
    pub(super) fn has(&self, file: &str) -> bool {
        fs::symlink_metadata(self.path.join(file)).is_ok()
    }
}
