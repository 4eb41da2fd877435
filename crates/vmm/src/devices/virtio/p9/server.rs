//! The 9P2000.L server: what each request does to the fids and the tree.
//!
//! Requests are answered one by one, to the end. A fid is a path and, once it is
//! opened, a file; so it can be saved as path and flags, and opened again in a
//! clone. A file that was removed while open is gone there: `ESTALE`.
//!
//! This file has the session and the saved state; the requests are in `attributes`, `io` and
//! `namespace`.

mod attributes;
mod io;
mod namespace;

use super::fids::{Fid, Fids, MAX_FIDS, Open};
use super::qid::put_qid;
use super::tree::{Tree, TreePath};
use super::wire::{Decoder, Encoder, MAX_MESSAGE, RLERROR, request};
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// No fid.
const NO_FID: u32 = u32::MAX;

const VERSION: &[u8] = b"9P2000.L";

/// Flags of an open that mean something here; access mode included.
const OPEN_FLAGS: OFlags = OFlags::RDWR
    .union(OFlags::WRONLY)
    .union(OFlags::TRUNC)
    .union(OFlags::APPEND)
    .union(OFlags::DIRECTORY)
    .union(OFlags::DSYNC)
    .union(OFlags::SYNC);

/// Flags that mean something at an open only, and not to the same file in a clone.
const AT_OPEN: OFlags = OFlags::TRUNC.union(OFlags::EXCL);

/// A fid in a saved state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SavedFid {
    fid: u32,
    #[serde(with = "serde_bytes")]
    path: Vec<u8>,
    /// Flags it was opened with.
    open: Option<u32>,
}

#[cfg(test)]
impl SavedFid {
    /// For golden files: never changed.
    pub(crate) fn sample() -> Self {
        Self {
            fid: 300,
            path: b"dir/file".to_vec(),
            open: Some(0x8002),
        }
    }
}

/// See the module's documentation.
pub(super) struct Server {
    tree: Tree,
    /// Longest message agreed upon, in bytes.
    limit: u32,
    fids: Fids,
}

impl Server {
    pub(super) fn new(tree: Tree) -> Self {
        Self {
            tree,
            limit: MAX_MESSAGE,
            fids: Fids::default(),
        }
    }

    pub(super) fn restore(tree: Tree, limit: u32, saved: &[SavedFid]) -> Result<Self, Errno> {
        let mut server = Self::new(tree);
        server.limit = limit.min(MAX_MESSAGE);
        for fid in saved.iter().take(MAX_FIDS) {
            let path = TreePath::from_bytes(&fid.path)?;
            let open = fid.open.map(|flags| {
                let flags = OFlags::from_bits_truncate(flags) & OPEN_FLAGS & !AT_OPEN;
                Open {
                    flags,
                    file: server.tree.open(&path, flags).ok(),
                }
            });
            server.fids.restore(fid.fid, Fid { path, open });
        }
        Ok(server)
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    pub(super) fn save(&self) -> Vec<SavedFid> {
        let save = |(fid, state): (u32, &Fid)| SavedFid {
            fid,
            path: state.path.as_bytes().to_vec(),
            open: state.open.as_ref().map(|open| open.flags.bits()),
        };
        self.fids.iter().map(save).collect()
    }

    /// Forgets everything of a client.
    pub(super) fn reset(&mut self) {
        self.fids.clear();
        self.limit = MAX_MESSAGE;
    }

    /// Answers one request in at most `space` bytes, which is room for an error
    /// at least.
    pub(super) fn answer(
        &mut self,
        kind: u8,
        tag: u16,
        body: &[u8],
        space: usize,
        out: &mut Encoder,
    ) {
        out.begin();
        let space = space.min(self.limit as usize);
        let mut result = self.serve(kind, Decoder(body), space, out);
        if result.is_ok() && out.as_bytes().len() > space {
            result = Err(Errno::OVERFLOW);
        }
        match result {
            Ok(()) => out.finish(kind + 1, tag),
            Err(error) => {
                out.begin();
                out.u32(error.raw_os_error() as u32);
                out.finish(RLERROR, tag);
            }
        }
    }

    fn serve(
        &mut self,
        kind: u8,
        mut body: Decoder<'_>,
        space: usize,
        out: &mut Encoder,
    ) -> Result<(), Errno> {
        let d = &mut body;
        match kind {
            request::VERSION => self.version(d, out),
            request::ATTACH => self.attach(d, out),
            request::FLUSH => Ok(()),
            request::WALK => self.walk(d, out),
            request::CLUNK => self.clunk(d),
            request::STATFS => self.statfs(d, out),
            request::GETATTR => self.get_attributes(d, out),
            request::SETATTR => self.set_attributes(d),
            request::LOPEN => self.open(d, out),
            request::LCREATE => self.create(d, out),
            request::READ => self.read(d, space, out),
            request::WRITE => self.write(d, out),
            request::READDIR => self.read_directory(d, space, out),
            request::FSYNC => self.sync(d),
            request::READLINK => self.read_link(d, out),
            request::SYMLINK => self.make_link(d, out),
            request::LINK => self.hard_link(d),
            request::MKDIR => self.make_directory(d, out),
            request::MKNOD => self.make_node(d, out),
            request::RENAME => self.rename(d),
            request::RENAMEAT => self.rename_at(d),
            request::UNLINKAT => self.unlink_at(d),
            request::REMOVE => self.remove(d),
            request::LOCK => self.lock(d, out),
            request::GETLOCK => self.get_lock(d, out),
            _ => Err(Errno::OPNOTSUPP),
        }
    }

    // ---- session ------------------------------------------------------------

    fn version(&mut self, d: &mut Decoder<'_>, out: &mut Encoder) -> Result<(), Errno> {
        let (limit, version) = (d.u32()?, d.string()?);
        if limit < 4096 {
            return Err(Errno::INVAL);
        }
        self.reset();
        self.limit = limit.min(MAX_MESSAGE);
        out.u32(self.limit);
        out.string(if version == VERSION {
            VERSION
        } else {
            b"unknown"
        });
        Ok(())
    }

    fn attach(&mut self, d: &mut Decoder<'_>, out: &mut Encoder) -> Result<(), Errno> {
        let (fid, auth) = (d.u32()?, d.u32()?);
        if auth != NO_FID {
            return Err(Errno::OPNOTSUPP);
        }
        let path = TreePath::default();
        let stat = self.tree.stat(&path)?;
        self.fids.add(fid, path)?;
        put_qid(out, &stat);
        Ok(())
    }

    fn clunk(&mut self, d: &mut Decoder<'_>) -> Result<(), Errno> {
        self.fids.remove(d.u32()?).map(drop)
    }
}
