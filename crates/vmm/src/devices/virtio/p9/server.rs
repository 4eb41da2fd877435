//! The 9P2000.L server: what each request does to the fids and the tree.
//!
//! Requests are answered one by one, to the end. A fid is a path and, once it is
//! opened, a file; so it can be saved as path and flags, and opened again in a
//! clone. A file that was removed while open is gone there: `ESTALE`.

use super::tree::{Changes, Name, Tree, TreePath, kind};
use super::wire::{Decoder, Encoder, HEADER_LEN, MAX_MESSAGE, RLERROR, request};
use rustix::fs::{self, FileType, OFlags, RawDir, SeekFrom, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, btree_map};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Most fids, and most of them open, at a time.
const MAX_FIDS: usize = 16_384;
const MAX_OPEN: usize = 1024;

/// Most names in one walk (the protocol's own limit).
const MAX_WALK: u16 = 16;

/// No fid.
const NO_FID: u32 = u32::MAX;

const VERSION: &[u8] = b"9P2000.L";

/// What is before the data of a read's answer, and more than is before a write's.
const IO_HEADER: usize = HEADER_LEN + 4;

/// Flags of an open that mean something here; access mode included.
const OPEN_FLAGS: OFlags = OFlags::RDWR
    .union(OFlags::WRONLY)
    .union(OFlags::TRUNC)
    .union(OFlags::APPEND)
    .union(OFlags::DIRECTORY)
    .union(OFlags::DSYNC)
    .union(OFlags::SYNC);

struct Fid {
    path: TreePath,
    open: Option<Open>,
}

struct Open {
    flags: OFlags,
    /// None when it could not be opened again in this clone.
    file: Option<OwnedFd>,
}

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
    fids: BTreeMap<u32, Fid>,
}

impl Server {
    pub(super) fn new(tree: Tree) -> Self {
        Self {
            tree,
            limit: MAX_MESSAGE,
            fids: BTreeMap::new(),
        }
    }

    pub(super) fn restore(tree: Tree, limit: u32, saved: &[SavedFid]) -> Result<Self, Errno> {
        let mut server = Self::new(tree);
        server.limit = limit.min(MAX_MESSAGE);
        for fid in saved.iter().take(MAX_FIDS) {
            let path = TreePath::from_bytes(&fid.path)?;
            let open = fid.open.map(|flags| {
                let flags = OFlags::from_bits_truncate(flags) & OPEN_FLAGS & !OFlags::TRUNC;
                Open {
                    flags,
                    file: server.tree.open(&path, flags).ok(),
                }
            });
            server.fids.insert(fid.fid, Fid { path, open });
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
        let save = |(&fid, state): (&u32, &Fid)| SavedFid {
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
        self.add(fid, path)?;
        put_qid(out, &stat);
        Ok(())
    }

    fn walk(&mut self, d: &mut Decoder<'_>, out: &mut Encoder) -> Result<(), Errno> {
        let (fid, new_fid, count) = (d.u32()?, d.u32()?, d.u16()?);
        let from = self.fid(fid)?;
        if count > MAX_WALK || (from.open.is_some() && fid == new_fid) {
            return Err(Errno::INVAL);
        }
        let mut path = from.path.clone();
        let mut found = Vec::new();
        for _ in 0..count {
            let step = self.step(&path, d.string()?);
            match step.and_then(|next| Ok((self.tree.stat(&next)?, next))) {
                Ok((stat, next)) => {
                    found.push(stat);
                    path = next;
                }
                Err(error) if found.is_empty() => return Err(error),
                // Fewer answers than names tell where it failed; no fid is made.
                Err(_) => break,
            }
        }
        if found.len() == usize::from(count) {
            if fid == new_fid {
                self.fids.remove(&fid);
            }
            self.add(new_fid, path)?;
        }
        out.u16(found.len() as u16);
        found.iter().for_each(|stat| put_qid(out, stat));
        Ok(())
    }

    fn step(&self, path: &TreePath, name: &[u8]) -> Result<TreePath, Errno> {
        match name {
            // There are no links in a path, so its parent is what it says.
            b".." => Ok(path.split().map(|(parent, _)| parent).unwrap_or_default()),
            name => path.join(Name::new(name)?),
        }
    }

    fn clunk(&mut self, d: &mut Decoder<'_>) -> Result<(), Errno> {
        self.fids.remove(&d.u32()?).map(drop).ok_or(Errno::BADF)
    }

    // ---- attributes ---------------------------------------------------------

    fn statfs(&mut self, d: &mut Decoder<'_>, out: &mut Encoder) -> Result<(), Errno> {
        /// `V9FS_MAGIC`: what this is to the guest, wherever it is here.
        const MAGIC: u32 = 0x0102_1997;
        let stat = self.tree.statfs(&self.fid(d.u32()?)?.path)?;
        out.u32(MAGIC);
        out.u32(stat.f_bsize as u32);
        out.u64(stat.f_blocks);
        out.u64(stat.f_bfree);
        out.u64(stat.f_bavail);
        out.u64(stat.f_files);
        out.u64(stat.f_ffree);
        out.u64(0);
        out.u32(stat.f_namelen as u32);
        Ok(())
    }

    fn get_attributes(&mut self, d: &mut Decoder<'_>, out: &mut Encoder) -> Result<(), Errno> {
        /// `P9_STATS_BASIC`: everything up to the number of blocks.
        const BASIC: u64 = 0x7ff;
        let stat = self.stat(self.fid(d.u32()?)?)?;
        out.u64(BASIC);
        put_qid(out, &stat);
        out.u32(stat.st_mode);
        out.u32(stat.st_uid);
        out.u32(stat.st_gid);
        out.u64(stat.st_nlink);
        out.u64(stat.st_rdev);
        out.u64(stat.st_size as u64);
        out.u64(stat.st_blksize as u64);
        out.u64(stat.st_blocks as u64);
        out.u64(stat.st_atime as u64);
        out.u64(stat.st_atime_nsec);
        out.u64(stat.st_mtime as u64);
        out.u64(stat.st_mtime_nsec);
        out.u64(stat.st_ctime as u64);
        out.u64(stat.st_ctime_nsec);
        // Birth time, generation, data version: not among the valid ones.
        (0..4).for_each(|_| out.u64(0));
        Ok(())
    }

    fn set_attributes(&mut self, d: &mut Decoder<'_>) -> Result<(), Errno> {
        const MODE: u32 = 1;
        const UID: u32 = 2;
        const GID: u32 = 4;
        const SIZE: u32 = 8;
        const ATIME: u32 = 0x10;
        const MTIME: u32 = 0x20;
        const ATIME_SET: u32 = 0x80;
        const MTIME_SET: u32 = 0x100;

        let fid = d.u32()?;
        let valid = d.u32()?;
        let has = |bit: u32| valid & bit != 0;
        let (mode, uid, gid, size) = (d.u32()?, d.u32()?, d.u32()?, d.u64()?);
        let mut time = |wanted: bool, given: bool| {
            let (sec, nsec) = (d.u64()?, d.u64()?);
            let nsec = match (wanted, given) {
                (false, _) => fs::UTIME_OMIT,
                (true, false) => fs::UTIME_NOW,
                (true, true) if nsec < 1_000_000_000 => nsec as _,
                (true, true) => return Err(Errno::INVAL),
            };
            Ok(Timespec {
                tv_sec: sec as i64,
                tv_nsec: nsec,
            })
        };
        let times = Timestamps {
            last_access: time(has(ATIME), has(ATIME_SET))?,
            last_modification: time(has(MTIME), has(MTIME_SET))?,
        };
        let changes = Changes {
            mode: has(MODE).then_some(mode),
            uid: has(UID).then_some(uid),
            gid: has(GID).then_some(gid),
            size: has(SIZE).then_some(size),
            times: has(ATIME | MTIME).then_some(times),
        };
        let fid = self.fid(fid)?;
        let file = fid.open.as_ref().and_then(|open| open.file.as_ref());
        self.tree.change(&fid.path, file.map(AsFd::as_fd), changes)
    }

    // ---- files --------------------------------------------------------------

    fn open(&mut self, d: &mut Decoder<'_>, out: &mut Encoder) -> Result<(), Errno> {
        let (fid, flags) = (d.u32()?, OFlags::from_bits_truncate(d.u32()?) & OPEN_FLAGS);
        self.room_to_open()?;
        let path = match self.fid(fid)? {
            Fid { path, open: None } => path,
            _ => return Err(Errno::INVAL),
        };
        let file = self.tree.open(path, flags)?;
        let stat = fs::fstat(&file)?;
        self.set_open(fid, None, flags, file);
        put_qid(out, &stat);
        out.u32(0);
        Ok(())
    }

    fn create(&mut self, d: &mut Decoder<'_>, out: &mut Encoder) -> Result<(), Errno> {
        let (fid, name, flags, mode) = (d.u32()?, Name::new(d.string()?)?, d.u32()?, d.u32()?);
        let flags = OFlags::from_bits_truncate(flags) & OPEN_FLAGS.union(OFlags::EXCL);
        self.room_to_open()?;
        let path = match self.fid(fid)? {
            Fid { path, open: None } => path.join(name)?,
            _ => return Err(Errno::INVAL),
        };
        let file = self.tree.create(&path, flags, mode)?;
        let stat = fs::fstat(&file)?;
        self.set_open(fid, Some(path), flags & !OFlags::EXCL, file);
        put_qid(out, &stat);
        out.u32(0);
        Ok(())
    }

    fn read(&mut self, d: &mut Decoder<'_>, space: usize, out: &mut Encoder) -> Result<(), Errno> {
        let (fid, offset, count) = (d.u32()?, d.u64()?, d.u32()?);
        let file = self.file(fid)?;
        let max = (count as usize).min(space.saturating_sub(IO_HEADER));
        out.data(max, |data| rustix::io::pread(file, data, offset))
    }

    fn write(&mut self, d: &mut Decoder<'_>, out: &mut Encoder) -> Result<(), Errno> {
        let (fid, offset, count) = (d.u32()?, d.u64()?, d.u32()?);
        let data = d.bytes(count as usize)?;
        let written = rustix::io::pwrite(self.file(fid)?, data, offset)?;
        out.u32(written as u32);
        Ok(())
    }

    fn sync(&mut self, d: &mut Decoder<'_>) -> Result<(), Errno> {
        let (fid, data_only) = (d.u32()?, d.u32()?);
        let file = self.file(fid)?;
        if data_only != 0 {
            fs::fdatasync(file)
        } else {
            fs::fsync(file)
        }
    }

    /// Locks hold between the programs of one guest, by the guest's own kernel;
    /// between clones there are none.
    fn lock(&mut self, d: &mut Decoder<'_>, out: &mut Encoder) -> Result<(), Errno> {
        const SUCCESS: u8 = 0;
        self.file(d.u32()?)?;
        out.u8(SUCCESS);
        Ok(())
    }

    fn get_lock(&mut self, d: &mut Decoder<'_>, out: &mut Encoder) -> Result<(), Errno> {
        const UNLOCKED: u8 = 2;
        self.file(d.u32()?)?;
        let _kind = d.u8()?;
        let (start, len, process, client) = (d.u64()?, d.u64()?, d.u32()?, d.string()?);
        out.u8(UNLOCKED);
        out.u64(start);
        out.u64(len);
        out.u32(process);
        out.string(client);
        Ok(())
    }

    // ---- directories --------------------------------------------------------

    fn read_directory(
        &mut self,
        d: &mut Decoder<'_>,
        space: usize,
        out: &mut Encoder,
    ) -> Result<(), Errno> {
        let (fid, offset, count) = (d.u32()?, d.u64()?, d.u32()?);
        let directory = self.file(fid)?;
        fs::seek(directory, SeekFrom::Start(offset))?;
        let max = (count as usize).min(space.saturating_sub(IO_HEADER));
        out.data(max, |data| list(directory, data))
    }

    fn read_link(&mut self, d: &mut Decoder<'_>, out: &mut Encoder) -> Result<(), Errno> {
        let target = self.tree.read_link(&self.fid(d.u32()?)?.path)?;
        out.string(&target);
        Ok(())
    }

    fn make_link(&mut self, d: &mut Decoder<'_>, out: &mut Encoder) -> Result<(), Errno> {
        let (fid, name, target) = (d.u32()?, Name::new(d.string()?)?, d.string()?);
        let at = &self.fid(fid)?.path;
        self.tree.make_link(at, name, target)?;
        self.put_made(at, name, out)
    }

    fn hard_link(&mut self, d: &mut Decoder<'_>) -> Result<(), Errno> {
        let (at, of, name) = (d.u32()?, d.u32()?, Name::new(d.string()?)?);
        self.tree
            .hard_link(&self.fid(of)?.path, &self.fid(at)?.path, name)
    }

    fn make_directory(&mut self, d: &mut Decoder<'_>, out: &mut Encoder) -> Result<(), Errno> {
        let (fid, name, mode) = (d.u32()?, Name::new(d.string()?)?, d.u32()?);
        let at = &self.fid(fid)?.path;
        self.tree.make_directory(at, name, mode)?;
        self.put_made(at, name, out)
    }

    fn make_node(&mut self, d: &mut Decoder<'_>, out: &mut Encoder) -> Result<(), Errno> {
        let (fid, name, mode) = (d.u32()?, Name::new(d.string()?)?, d.u32()?);
        let at = &self.fid(fid)?.path;
        self.tree.make_node(at, name, mode)?;
        self.put_made(at, name, out)
    }

    fn put_made(&self, at: &TreePath, name: Name<'_>, out: &mut Encoder) -> Result<(), Errno> {
        put_qid(out, &self.tree.stat(&at.join(name)?)?);
        Ok(())
    }

    fn rename(&mut self, d: &mut Decoder<'_>) -> Result<(), Errno> {
        let (fid, to, new_name) = (d.u32()?, d.u32()?, Name::new(d.string()?)?);
        let path = self.fid(fid)?.path.clone();
        let (from, name) = path.split().ok_or(Errno::BUSY)?;
        let to = self.fid(to)?.path.clone();
        self.move_entry((&from, name), (&to, new_name))
    }

    fn rename_at(&mut self, d: &mut Decoder<'_>) -> Result<(), Errno> {
        let (from, name) = (d.u32()?, Name::new(d.string()?)?);
        let (to, new_name) = (d.u32()?, Name::new(d.string()?)?);
        let (from, to) = (self.fid(from)?.path.clone(), self.fid(to)?.path.clone());
        self.move_entry((&from, name), (&to, new_name))
    }

    fn move_entry(
        &mut self,
        from: (&TreePath, Name<'_>),
        to: (&TreePath, Name<'_>),
    ) -> Result<(), Errno> {
        let (old, new) = (from.0.join(from.1)?, to.0.join(to.1)?);
        self.tree.rename(from, to)?;
        self.fids
            .values_mut()
            .for_each(|fid| fid.path.follow(&old, &new));
        Ok(())
    }

    fn unlink_at(&mut self, d: &mut Decoder<'_>) -> Result<(), Errno> {
        const REMOVE_DIRECTORY: u32 = 0x200;
        let (fid, name, flags) = (d.u32()?, Name::new(d.string()?)?, d.u32()?);
        let at = &self.fid(fid)?.path;
        self.tree.remove(at, name, flags & REMOVE_DIRECTORY != 0)
    }

    /// Removes the file and, whether that works or not, the fid.
    fn remove(&mut self, d: &mut Decoder<'_>) -> Result<(), Errno> {
        let fid = self.fids.remove(&d.u32()?).ok_or(Errno::BADF)?;
        let directory = kind(&self.tree.stat(&fid.path)?) == FileType::Directory;
        let (at, name) = fid.path.split().ok_or(Errno::BUSY)?;
        self.tree.remove(&at, name, directory)
    }

    // ---- fids ---------------------------------------------------------------

    fn fid(&self, fid: u32) -> Result<&Fid, Errno> {
        self.fids.get(&fid).ok_or(Errno::BADF)
    }

    fn file(&self, fid: u32) -> Result<BorrowedFd<'_>, Errno> {
        let open = self.fid(fid)?.open.as_ref().ok_or(Errno::BADF)?;
        open.file.as_ref().map(AsFd::as_fd).ok_or(Errno::STALE)
    }

    fn stat(&self, fid: &Fid) -> Result<Stat, Errno> {
        match &fid.open {
            Some(Open {
                file: Some(file), ..
            }) => fs::fstat(file),
            Some(Open { file: None, .. }) => Err(Errno::STALE),
            None => self.tree.stat(&fid.path),
        }
    }

    fn add(&mut self, fid: u32, path: TreePath) -> Result<(), Errno> {
        if self.fids.len() >= MAX_FIDS {
            return Err(Errno::NFILE);
        }
        match self.fids.entry(fid) {
            btree_map::Entry::Occupied(_) => Err(Errno::BADF),
            btree_map::Entry::Vacant(entry) => {
                entry.insert(Fid { path, open: None });
                Ok(())
            }
        }
    }

    fn room_to_open(&self) -> Result<(), Errno> {
        let open = self.fids.values().filter(|fid| fid.open.is_some()).count();
        if open < MAX_OPEN {
            Ok(())
        } else {
            Err(Errno::MFILE)
        }
    }

    fn set_open(&mut self, fid: u32, path: Option<TreePath>, flags: OFlags, file: OwnedFd) {
        if let Some(fid) = self.fids.get_mut(&fid) {
            fid.open = Some(Open {
                flags,
                file: Some(file),
            });
            if let Some(path) = path {
                fid.path = path;
            }
        }
    }
}

/// Writes as many entries of `directory` into `data` as fit; returns their length.
fn list(directory: BorrowedFd<'_>, data: &mut [u8]) -> Result<usize, Errno> {
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(directory, &mut buffer);
    let mut entry_bytes = Encoder::default();
    let mut len = 0;
    while let Some(entry) = entries.next() {
        let entry = entry?;
        entry_bytes.clear();
        put_raw_qid(&mut entry_bytes, entry.file_type(), 0, entry.ino());
        entry_bytes.u64(entry.next_entry_cookie());
        entry_bytes.u8(directory_type(entry.file_type()));
        entry_bytes.string(entry.file_name().to_bytes());
        let entry = entry_bytes.as_bytes();
        let Some(room) = data.get_mut(len..len + entry.len()) else {
            // Not even one: the guest would take no entries for the end.
            return if len == 0 { Err(Errno::INVAL) } else { Ok(len) };
        };
        room.copy_from_slice(entry);
        len += entry.len();
    }
    Ok(len)
}

/// `d_type` of readdir(3).
fn directory_type(kind: FileType) -> u8 {
    match kind {
        FileType::Fifo => 1,
        FileType::CharacterDevice => 2,
        FileType::Directory => 4,
        FileType::BlockDevice => 6,
        FileType::RegularFile => 8,
        FileType::Symlink => 10,
        FileType::Socket => 12,
        FileType::Unknown => 0,
    }
}

/// What tells a file from all others, and one version of it from the next.
fn put_qid(out: &mut Encoder, stat: &Stat) {
    let version =
        (stat.st_mtime as u32).rotate_left(16) ^ stat.st_mtime_nsec as u32 ^ stat.st_size as u32;
    put_raw_qid(
        out,
        kind(stat),
        version,
        stat.st_ino ^ stat.st_dev.rotate_left(48),
    );
}

fn put_raw_qid(out: &mut Encoder, kind: FileType, version: u32, path: u64) {
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
