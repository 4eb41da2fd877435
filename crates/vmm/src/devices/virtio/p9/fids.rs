//! The fid table: the files behind the client's numbers.

use super::tree::{Tree, TreePath};
use rustix::fs::{self, OFlags, Stat};
use rustix::io::Errno;
use std::collections::{BTreeMap, btree_map};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Most fids, and most of them open, at a time.
pub(super) const MAX_FIDS: usize = 16_384;
const MAX_OPEN: usize = 1024;

/// What one fid stands for.
pub(super) struct Fid {
    pub(super) path: TreePath,
    pub(super) open: Option<Open>,
}

/// A file that was opened.
pub(super) struct Open {
    pub(super) flags: OFlags,
    /// `None` when it could not be opened again in this clone.
    pub(super) file: Option<OwnedFd>,
}

impl Fid {
    /// The attributes of its file: of the open one, or else of what has its path now.
    ///
    /// # Errors
    /// `ESTALE` when it could not be opened again in this clone; as `fstatat(2)`.
    pub(super) fn stat(&self, tree: &Tree) -> Result<Stat, Errno> {
        match &self.open {
            Some(Open {
                file: Some(file), ..
            }) => fs::fstat(file),
            Some(Open { file: None, .. }) => Err(Errno::STALE),
            None => tree.stat(&self.path),
        }
    }
}

/// All fids of one client. `EBADF` is the answer to a number that stands for nothing.
#[derive(Default)]
pub(super) struct Fids(BTreeMap<u32, Fid>);

impl Fids {
    /// All of them, by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Fid)> {
        self.0.iter().map(|(&number, fid)| (number, fid))
    }

    pub(super) fn get(&self, number: u32) -> Result<&Fid, Errno> {
        self.0.get(&number).ok_or(Errno::BADF)
    }

    /// The open file of a fid.
    ///
    /// # Errors
    /// `EBADF` when it is not open, `ESTALE` when it could not be opened again in this clone.
    pub(super) fn file(&self, number: u32) -> Result<BorrowedFd<'_>, Errno> {
        let open = self.get(number)?.open.as_ref().ok_or(Errno::BADF)?;
        open.file.as_ref().map(AsFd::as_fd).ok_or(Errno::STALE)
    }

    /// The path of a fid that is not open yet.
    ///
    /// # Errors
    /// `EINVAL` when it is open.
    pub(super) fn unopened(&self, number: u32) -> Result<&TreePath, Errno> {
        match self.get(number)? {
            Fid { path, open: None } => Ok(path),
            _ => Err(Errno::INVAL),
        }
    }

    /// Adds a fid for `path`.
    ///
    /// # Errors
    /// `ENFILE` when there are too many, `EBADF` when the number is in use.
    pub(super) fn add(&mut self, number: u32, path: TreePath) -> Result<(), Errno> {
        if self.0.len() >= MAX_FIDS {
            return Err(Errno::NFILE);
        }
        match self.0.entry(number) {
            btree_map::Entry::Occupied(_) => Err(Errno::BADF),
            btree_map::Entry::Vacant(entry) => {
                entry.insert(Fid { path, open: None });
                Ok(())
            }
        }
    }

    /// Takes over a fid of the parent.
    pub(super) fn restore(&mut self, number: u32, fid: Fid) {
        self.0.insert(number, fid);
    }

    pub(super) fn remove(&mut self, number: u32) -> Result<Fid, Errno> {
        self.0.remove(&number).ok_or(Errno::BADF)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether one more may be opened.
    ///
    /// # Errors
    /// `EMFILE` when it may not.
    pub(super) fn room_to_open(&self) -> Result<(), Errno> {
        let open = self.0.values().filter(|fid| fid.open.is_some()).count();
        if open < MAX_OPEN {
            Ok(())
        } else {
            Err(Errno::MFILE)
        }
    }

    /// Notes that `file` was opened, under a new path if one is given.
    pub(super) fn set_open(
        &mut self,
        number: u32,
        path: Option<TreePath>,
        flags: OFlags,
        file: OwnedFd,
    ) {
        if let Some(fid) = self.0.get_mut(&number) {
            fid.open = Some(Open {
                flags,
                file: Some(file),
            });
            if let Some(path) = path {
                fid.path = path;
            }
        }
    }

    /// Updates the fids of a file or directory that was renamed from `old` to `new`, and of all
    /// below it.
    pub(super) fn follow(&mut self, old: &TreePath, new: &TreePath) {
        self.0
            .values_mut()
            .for_each(|fid| fid.path.follow(old, new));
    }
}
