//! Descriptors that travel beside a serialised state.
//!
//! A state cannot hold a descriptor, because the state goes to another process. So the code
//! that saves puts the descriptor in an [`FdTable`] and its [`FdIndex`] in the state; the code
//! that restores takes the descriptor out again. The table itself goes over `SCM_RIGHTS`.

use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// A descriptor's place in an [`FdTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdIndex(u32);

/// The descriptors of one saved state.
#[derive(Debug, Default)]
pub struct FdTable(Vec<OwnedFd>);

impl FdTable {
    /// A table of received descriptors.
    pub fn new(fds: Vec<OwnedFd>) -> Self {
        Self(fds)
    }

    /// Adds a duplicate of `fd`.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn push(&mut self, fd: impl AsFd) -> io::Result<FdIndex> {
        self.0.push(fd.as_fd().try_clone_to_owned()?);
        Ok(FdIndex((self.0.len() - 1) as u32))
    }

    /// A duplicate of the descriptor at `index`.
    ///
    /// # Errors
    /// `InvalidData` for a place that does not exist; otherwise as [`push`](Self::push).
    pub fn get(&self, index: FdIndex) -> io::Result<OwnedFd> {
        match self.0.get(index.0 as usize) {
            Some(fd) => fd.try_clone(),
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the state names descriptor {} of {}", index.0, self.0.len()),
            )),
        }
    }

    /// All of them, in order.
    pub fn as_slice(&self) -> &[OwnedFd] {
        &self.0
    }
}
