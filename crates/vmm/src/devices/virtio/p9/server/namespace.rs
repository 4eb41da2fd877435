//! Requests about names: finding, making, linking, renaming and removing.

use super::super::qid::put_qid;
use super::super::tree::{Name, Tree, TreePath, kind};
use super::super::wire::{Decoder, Encoder};
use super::Server;
use rustix::fs::FileType;
use rustix::io::Errno;

/// Most names in one walk (the protocol's own limit).
const MAX_WALK: u16 = 16;

impl Server {
    pub(super) fn walk(&mut self, d: &mut Decoder<'_>, out: &mut Encoder) -> Result<(), Errno> {
        let (fid, new_fid, count) = (d.u32()?, d.u32()?, d.u16()?);
        let from = self.fids.get(fid)?;
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
                self.fids.remove(fid)?;
            }
            self.fids.add(new_fid, path)?;
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

    pub(super) fn read_link(
        &mut self,
        d: &mut Decoder<'_>,
        out: &mut Encoder,
    ) -> Result<(), Errno> {
        let target = self.tree.read_link(&self.fids.get(d.u32()?)?.path)?;
        out.string(&target);
        Ok(())
    }

    pub(super) fn make_link(
        &mut self,
        d: &mut Decoder<'_>,
        out: &mut Encoder,
    ) -> Result<(), Errno> {
        let (fid, name, target) = (d.u32()?, Name::new(d.string()?)?, d.string()?);
        let at = &self.fids.get(fid)?.path;
        self.tree.make_link(at, name, target)?;
        self.put_made(at, name, out)
    }

    pub(super) fn hard_link(&mut self, d: &mut Decoder<'_>) -> Result<(), Errno> {
        let (at, of, name) = (d.u32()?, d.u32()?, Name::new(d.string()?)?);
        self.tree
            .hard_link(&self.fids.get(of)?.path, &self.fids.get(at)?.path, name)
    }

    pub(super) fn make_directory(
        &mut self,
        d: &mut Decoder<'_>,
        out: &mut Encoder,
    ) -> Result<(), Errno> {
        self.make(d, out, Tree::make_directory)
    }

    pub(super) fn make_node(
        &mut self,
        d: &mut Decoder<'_>,
        out: &mut Encoder,
    ) -> Result<(), Errno> {
        self.make(d, out, Tree::make_node)
    }

    /// Makes what has a mode.
    fn make(
        &self,
        d: &mut Decoder<'_>,
        out: &mut Encoder,
        make: impl FnOnce(&Tree, &TreePath, Name<'_>, u32) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let (fid, name, mode) = (d.u32()?, Name::new(d.string()?)?, d.u32()?);
        let at = &self.fids.get(fid)?.path;
        make(&self.tree, at, name, mode)?;
        self.put_made(at, name, out)
    }

    fn put_made(&self, at: &TreePath, name: Name<'_>, out: &mut Encoder) -> Result<(), Errno> {
        put_qid(out, &self.tree.stat(&at.join(name)?)?);
        Ok(())
    }

    pub(super) fn rename(&mut self, d: &mut Decoder<'_>) -> Result<(), Errno> {
        let (fid, to, new_name) = (d.u32()?, d.u32()?, Name::new(d.string()?)?);
        let path = self.fids.get(fid)?.path.clone();
        let (from, name) = path.split().ok_or(Errno::BUSY)?;
        let to = self.fids.get(to)?.path.clone();
        self.move_entry((&from, name), (&to, new_name))
    }

    pub(super) fn rename_at(&mut self, d: &mut Decoder<'_>) -> Result<(), Errno> {
        let (from, name) = (d.u32()?, Name::new(d.string()?)?);
        let (to, new_name) = (d.u32()?, Name::new(d.string()?)?);
        let (from, to) = (
            self.fids.get(from)?.path.clone(),
            self.fids.get(to)?.path.clone(),
        );
        self.move_entry((&from, name), (&to, new_name))
    }

    fn move_entry(
        &mut self,
        from: (&TreePath, Name<'_>),
        to: (&TreePath, Name<'_>),
    ) -> Result<(), Errno> {
        let (old, new) = (from.0.join(from.1)?, to.0.join(to.1)?);
        self.tree.rename(from, to)?;
        self.fids.follow(&old, &new);
        Ok(())
    }

    pub(super) fn unlink_at(&mut self, d: &mut Decoder<'_>) -> Result<(), Errno> {
        const REMOVE_DIRECTORY: u32 = 0x200;
        let (fid, name, flags) = (d.u32()?, Name::new(d.string()?)?, d.u32()?);
        let at = &self.fids.get(fid)?.path;
        self.tree.remove(at, name, flags & REMOVE_DIRECTORY != 0)
    }

    /// Removes the file and, whether that works or not, the fid.
    pub(super) fn remove(&mut self, d: &mut Decoder<'_>) -> Result<(), Errno> {
        let fid = self.fids.remove(d.u32()?)?;
        let directory = kind(&self.tree.stat(&fid.path)?) == FileType::Directory;
        let (at, name) = fid.path.split().ok_or(Errno::BUSY)?;
        self.tree.remove(&at, name, directory)
    }
}
