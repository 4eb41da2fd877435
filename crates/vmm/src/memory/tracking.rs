//! Which pages a machine has written since its last fork, so that not all it has written
//! since the base was frozen is copied at each.
//!
//! To be told of a write costs the guest a fault, at the first write to each page after
//! each fork: 10 times what it costs to copy the page (docs/adr/0008). So only machines
//! that have written much are tracked, and of those only such as write little of it
//! again between forks.

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

/// Shared by a RAM and what works for it in the background.
#[derive(Debug, Clone)]
pub(super) struct Tracking(Arc<Mutex<Tracker>>);

#[derive(Debug)]
struct Tracker {
    ram: Arc<AddressRange>,
    /// The RAM's, where the host has such a thing for it.
    userfault: Option<Arc<Userfault>>,
    /// While writes are noticed.
    tracked: Option<Tracked>,
    /// Machines that have written less, in bytes, are not tracked, and of those that are
    /// no less is copied ahead.
    least: usize,
    /// Forks until it is worth another try.
    not_before: u32,
}

#[derive(Debug)]
struct Tracked {
    /// The RAM's own pages as they were at the last freeze; those that have been written
    /// since are told. (A page that is given back would still be in here, so none is while
    /// there is this: [`FreePages`](super::FreePages).)
    layers: Layers,
    /// Bytes of them that were [copied ahead](Tracking::prepare) since the last freeze.
    ahead: usize,
    _watch: Watch,
}

/// What a freeze had to copy, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Copied {
    /// All that the machine has written since the base was frozen.
    All(usize),
    /// Only what it has written since the last freeze: so much while it stood still, and so
    /// much ahead of that.
    New { len: usize, ahead: usize },
}

/// [`Tracker::least`], usually: 16 MiB take 3 ms.
const LEAST: usize = 16 << 20;
/// Files on top of each other before they are made one.
const DEEPEST: usize = 8;
/// After tracking has turned out to be of no use, or could not begin.
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
    /// Of this RAM, which has this userfaultfd.
    pub(super) fn of(ram: &Arc<AddressRange>, userfault: Option<Arc<Userfault>>) -> Self {
        Self(Arc::new(Mutex::new(Tracker {
            ram: ram.clone(),
            userfault,
            tracked: None,
            least: LEAST,
            not_before: 0,
        })))
    }

    /// The RAM is given other contents.
    pub(super) fn stop(&self) {
        self.lock().tracked = None;
    }

    /// Before a freeze, while the machine runs: copies what would have to be copied while it
    /// stands still, if that is much. What it writes meanwhile is copied again then. The
    /// process has `anonymous` bytes of its own.
    ///
    /// # Errors
    /// When the host is out of memory. The freeze then copies more.
    pub(super) fn prepare(&self, pagemap: &Pagemap, anonymous: usize) -> io::Result<()> {
        match self.0.try_lock() {
            Ok(mut tracker) => tracker.prepare(pagemap, anonymous),
            // The background is at it.
            Err(_) => Ok(()),
        }
    }

    /// Does `work` if no writes are noticed, and none begin to be meanwhile.
    pub(super) fn unless_on<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        // The background may be about to begin.
        let tracker = self.0.try_lock().ok()?;
        tracker.tracked.is_none().then(work)
    }

    /// Where the RAM, which is at rest, is tracked: all that differs from its base, of
    /// which what is new has been copied into the arena.
    ///
    /// # Errors
    /// When the host is out of memory, or the copies cannot be sealed. Nothing has changed
    /// then.
    pub(super) fn freeze(
        &self,
        ram: &AddressRange,
        pagemap: &Pagemap,
        spare: &Spare,
        helpers: Option<&dyn Helpers>,
        at_rest: &AtRest,
    ) -> io::Result<Option<(Collected, Copied)>> {
        // The background takes longer than copying everything.
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
            // What is not protected counts as written, and is copied again next time.
            let _ = pagemap.protect(ram, &written);
        }
        new.layers = layers.clone();
        Ok(Some((new, copied)))
    }

    /// Begins, ends, or tidies up, after a freeze and while the machine runs. Tells how many
    /// bytes the next freeze is likely to copy.
    ///
    /// # Errors
    /// When the host is out of memory; when the RAM cannot be watched just now.
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
                // Some may be protected, and in no layer.
                self.tracked = None;
                Err(error)
            }
        }
    }

    /// From here on writes are noticed, where the host has that.
    fn begin(&mut self, pagemap: &Pagemap) -> io::Result<()> {
        let Some(userfault) = &self.userfault else {
            return Ok(());
        };
        // Whatever fails now may not fail later.
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

/// What a machine has in `ranges`. They are protected first: a page that is written meanwhile
/// counts as written, so it does not matter how its copy turns out.
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
