//! Tracks the pages that a machine writes after a fork (userfaultfd, asynchronous write
//! protection), so that the next fork need not copy all pages written since the base was frozen.
//!
//! Tracking costs the guest a page fault at the first write to each page after each fork: 10 times
//! what it costs to copy the page (docs/adr/0008). So a machine is tracked only if it has written
//! many pages, and only as long as it rewrites few of them between forks.

use super::arena::Spare;
use super::at_rest::AtRest;
use super::collect::{Collected, collect};
use super::layers::Layers;
use super::ranges;
use crate::sys::hands::Helpers;
use crate::sys::mapping::AddressRange;
use crate::sys::memfd::MemoryFile;
use crate::sys::pagemap::Pagemap;
use crate::sys::userfault::{Userfault, Watch};
use std::io;
use std::mem;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The tracker of a RAM, shared with the cleanup that runs in the background.
#[derive(Debug, Clone)]
pub(super) struct Tracking(Arc<Mutex<Tracker>>);

#[derive(Debug)]
struct Tracker {
    ram: Arc<AddressRange>,
    /// The RAM's userfaultfd, if the host has it.
    userfault: Option<Arc<Userfault>>,
    /// `Some` while writes are tracked.
    tracked: Option<Tracked>,
    /// A machine that has written fewer bytes is not tracked, and fewer bytes are not copied
    /// ahead of a freeze.
    least: usize,
    /// Forks until tracking is tried again.
    not_before: u32,
}

#[derive(Debug)]
struct Tracked {
    /// The RAM's private pages as they were at the last freeze; the kernel tells which of them
    /// have been written since. (A page that is freed would still be in here, so none is freed
    /// while writes are tracked: [`FreePages`](super::FreePages).)
    layers: Layers,
    /// Bytes of them that were [copied ahead](Tracking::prepare) of the next freeze.
    ahead: usize,
    _watch: Watch,
}

/// How many bytes a freeze has copied.
#[derive(Debug, Clone, Copy)]
pub(super) enum Copied {
    /// All pages written since the base was frozen.
    All(usize),
    /// Only pages written since the last freeze: `len` bytes while the machine was at rest, and
    /// `ahead` bytes before that.
    New { len: usize, ahead: usize },
}

/// The default of [`Tracker::least`]: copying 16 MiB takes 3 ms.
const LEAST: usize = 16 << 20;
/// Files on top of each other before they are merged into one.
const DEEPEST: usize = 8;
/// The pause after tracking has turned out to be useless, or could not begin.
const FORKS_UNTIL_NEXT_TRY: u32 = 16;

impl Copied {
    /// What was copied while the machine was at rest.
    pub(super) fn while_at_rest(self) -> usize {
        match self {
            Self::All(len) | Self::New { len, .. } => len,
        }
    }
}

impl Tracking {
    /// The tracker of this RAM, with the RAM's userfaultfd.
    pub(super) fn of(ram: &Arc<AddressRange>, userfault: Option<Arc<Userfault>>) -> Self {
        Self(Arc::new(Mutex::new(Tracker {
            ram: ram.clone(),
            userfault,
            tracked: None,
            least: LEAST,
            not_before: 0,
        })))
    }

    /// Stops tracking, because the RAM gets other contents.
    pub(super) fn stop(&self) {
        self.lock().tracked = None;
    }

    /// Prepares a freeze while the machine runs: copies the pages that the freeze would have to
    /// copy, if they are many. The freeze copies those again that the machine writes meanwhile.
    /// `anonymous` is the size of the process's private pages.
    ///
    /// # Errors
    /// When the host is out of memory. The freeze then copies more.
    pub(super) fn prepare(&self, pagemap: &Pagemap, anonymous: usize) -> io::Result<()> {
        match self.0.try_lock() {
            Ok(mut tracker) => tracker.prepare(pagemap, anonymous),
            // The background cleanup holds the lock. The freeze then copies more.
            Err(_) => Ok(()),
        }
    }

    /// Does `work` unless writes are tracked; tracking does not begin meanwhile.
    pub(super) fn unless_tracking<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        // If it is locked, the background cleanup may be about to begin tracking.
        let tracker = self.0.try_lock().ok()?;
        tracker.tracked.is_none().then(work)
    }

    /// Copies the pages written since the last freeze. Returns all changes to the base, or `None`
    /// if writes are not tracked.
    ///
    /// # Errors
    /// When the host is out of memory, or the copies cannot be sealed. Nothing has changed then.
    pub(super) fn freeze(
        &self,
        ram: &AddressRange,
        pagemap: &Pagemap,
        spare: &Spare,
        helpers: Option<&dyn Helpers>,
        at_rest: &AtRest,
    ) -> io::Result<Option<(Collected, Copied)>> {
        // The background cleanup has it: waiting would take longer than copying all pages.
        let Ok(mut tracker) = self.0.try_lock() else {
            return Ok(None);
        };
        let Some(Tracked { layers, ahead, .. }) = &mut tracker.tracked else {
            return Ok(None);
        };
        let find = |part| pagemap.written_ranges(ram, part);
        let mut new = collect(ram, find, spare, helpers, at_rest)?;
        let copied = Copied::New {
            len: new.layers.len(),
            ahead: mem::take(ahead),
        };
        let written = new.layers.ranges();
        if !written.is_empty() {
            layers.put(new.layers);
            // Pages that are not protected count as written, and are copied again next time.
            let _ = pagemap.protect(ram, &written);
        }
        new.layers = layers.clone();
        Ok(Some((new, copied)))
    }

    /// After a freeze, while the machine runs: begins or ends tracking, or merges files. Returns
    /// how many bytes the next freeze will probably copy.
    ///
    /// # Errors
    /// When the host is out of memory; when writes cannot be tracked just now.
    pub(super) fn settle(&self, copied: Copied, pagemap: &Pagemap) -> io::Result<usize> {
        let mut guard = self.lock();
        let tracker = &mut *guard;
        tracker.not_before = tracker.not_before.saturating_sub(1);
        let worth_at = match tracker.not_before {
            0 => tracker.least,
            _ => usize::MAX,
        };
        match (copied, &mut tracker.tracked) {
            (Copied::New { len, ahead }, Some(tracked))
                if (len + ahead) * 2 > tracked.layers.len() =>
            {
                tracker.tracked = None;
                tracker.not_before = FORKS_UNTIL_NEXT_TRY;
            }
            (Copied::New { .. }, Some(tracked)) if tracked.layers.depth() > DEEPEST => {
                tracked.layers = flattened(&tracked.layers)?;
            }
            (Copied::All(len), None) if len >= worth_at => tracker.begin(pagemap)?,
            _ => {}
        }
        Ok(match (copied, &tracker.tracked) {
            (Copied::All(_), Some(_)) => 0,
            (copied, _) => copied.while_at_rest(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Tracker> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tracker {
    fn prepare(&mut self, pagemap: &Pagemap, anonymous: usize) -> io::Result<()> {
        let Some(tracked) = &mut self.tracked else {
            return match self.not_before == 0 && anonymous >= self.least {
                true => self.begin(pagemap),
                false => Ok(()),
            };
        };
        let written = pagemap.written_ranges(&self.ram, 0..self.ram.len())?;
        let len = ranges::len(&written);
        if len < self.least {
            return Ok(());
        }
        match copied_out(&self.ram, pagemap, written) {
            Ok(layers) => {
                tracked.layers.put(layers);
                tracked.ahead += len;
                Ok(())
            }
            Err(error) => {
                // Some pages may be write-protected although no layer has them.
                self.tracked = None;
                Err(error)
            }
        }
    }

    /// Begins tracking, if the host supports it.
    fn begin(&mut self, pagemap: &Pagemap) -> io::Result<()> {
        let Some(userfault) = &self.userfault else {
            return Ok(());
        };
        // A failure may be temporary, so tracking is tried again after some forks.
        let not_before = mem::replace(&mut self.not_before, FORKS_UNTIL_NEXT_TRY);
        let watch = userfault.watch(&self.ram)?;
        let ranges = pagemap.private_ranges(&self.ram)?;
        self.tracked = Some(Tracked {
            layers: copied_out(&self.ram, pagemap, ranges)?,
            ahead: 0,
            _watch: watch,
        });
        self.not_before = not_before;
        Ok(())
    }
}

/// Copies `ranges` of a running machine's memory into a file. They are write-protected first: a
/// page that is written meanwhile counts as written, so it does not matter what its copy holds.
fn copied_out(
    ram: &AddressRange,
    pagemap: &Pagemap,
    ranges: Vec<Range<usize>>,
) -> io::Result<Layers> {
    pagemap.protect(ram, &ranges)?;
    let file = MemoryFile::create("hyperfork-changes", 0)?;
    let mut offset = 0;
    for range in &ranges {
        ram.write_out(range.clone(), &file, offset)?;
        offset += range.len() as u64;
    }
    Ok(Layers::of(ranges, file.complete()?))
}

/// The same contents in one file.
fn flattened(layers: &Layers) -> io::Result<Layers> {
    let file = MemoryFile::create("hyperfork-changes", layers.len() as u64)?;
    let mut offset = 0;
    layers.for_each(|bytes| {
        file.write_all_at(bytes, offset)?;
        offset += bytes.len() as u64;
        Ok(())
    })?;
    Ok(Layers::of(layers.ranges(), file.complete()?))
}

#[cfg(test)]
impl Tracking {
    /// As if nothing had been tried yet.
    pub(super) fn reset(&self) {
        let mut tracker = self.lock();
        tracker.tracked = None;
        tracker.not_before = 0;
    }

    pub(super) fn begin_at(&self, least: usize) {
        self.lock().least = least;
    }

    pub(super) fn is_on(&self) -> bool {
        self.lock().tracked.is_some()
    }
}
