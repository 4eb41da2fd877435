//! Requests about the attributes of files and of their file system.

use super::super::qid::put_qid;
use super::super::tree::Changes;
use super::super::wire::{Decoder, Encoder};
use super::Server;
use rustix::fs::{self, Timespec, Timestamps};
use rustix::io::Errno;
use std::os::fd::AsFd;

impl Server {
    pub(super) fn statfs(&mut self, d: &mut Decoder<'_>, out: &mut Encoder) -> Result<(), Errno> {
        /// `V9FS_MAGIC`: what this is to the guest, wherever it is here.
        const MAGIC: u32 = 0x0102_1997;
        let stat = self.tree.statfs(&self.fids.get(d.u32()?)?.path)?;
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

    pub(super) fn get_attributes(
        &mut self,
        d: &mut Decoder<'_>,
        out: &mut Encoder,
    ) -> Result<(), Errno> {
        /// `P9_STATS_BASIC`: everything up to the number of blocks.
        const BASIC: u64 = 0x7ff;
        let stat = self.fids.get(d.u32()?)?.stat(&self.tree)?;
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

    pub(super) fn set_attributes(&mut self, d: &mut Decoder<'_>) -> Result<(), Errno> {
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
        let fid = self.fids.get(fid)?;
        let file = fid.open.as_ref().and_then(|open| open.file.as_ref());
        self.tree.change(&fid.path, file.map(AsFd::as_fd), changes)
    }
}
