//! A table of descriptors that is sent beside serialised data.
//!
//! Serialised data cannot hold a descriptor, because it goes to another process. So it holds an
//! index in an [`FdTable`], and the table goes with it over `SCM_RIGHTS`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Descriptors by their indices.
#[derive(Debug, Default)]
pub struct FdTable(Vec<OwnedFd>);

impl FdTable {
    /// A table of received descriptors.
    pub fn new(fds: Vec<OwnedFd>) -> Self {
        Self(fds)
    }

    /// Adds a duplicate of `fd`; returns its index.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn push(&mut self, fd: impl AsFd) -> io::Result<u32> {
        self.0.push(fd.as_fd().try_clone_to_owned()?);
        Ok((self.0.len() - 1) as u32)
    }

    /// A duplicate of the descriptor at `place`.
    ///
    /// # Errors
    /// `InvalidData` for a place that does not exist; otherwise as [`push`](Self::push).
    pub fn get(&self, place: u32) -> io::Result<OwnedFd> {
        match self.0.get(place as usize) {
            Some(fd) => fd.try_clone(),
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("descriptor {place} is wanted of {}", self.0.len()),
            )),
        }
    }

    /// All of them, in order.
    pub fn as_slice(&self) -> &[OwnedFd] {
        &self.0
    }
}
