//! Which pages a machine has written since its last fork, so that not all it has written
//! since the base was frozen is copied at each.
//!
//! To be told of a write costs the guest a fault, at the first write to each page after
//! each fork: 10 times what it costs to copy the page (docs/adr/0008). So only machines
//! that have written much are tracked, and of those only such as write little of it
//! again between forks.

use super::arena::Spare;
use super::collect::{Collected, collect};
use super::layers::Layers;
use super::ranges;
use crate::sys::hands::Hands;
use crate::sys::mapping::{Alias, Mapping};
use crate::sys::memfd;
use crate::sys::pagemap::Pagemap;
use crate::sys::userfault::Userfault;
use std::io;
use std::mem;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shared by a RAM and whoever works for it in the background.
#[derive(Debug, Clone)]
pub(super) struct Tracking(Arc<Mutex<Tracker>>);

#[derive(Debug, Default)]
struct Tracker {
    /// As long as the RAM is there.
    ram: Option<Alias>,
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
    /// since are told. (A page that were taken from the RAM would still be in here, so
    /// none is: [`FreePages`](super::FreePages).)
    layers: Layers,
    /// Bytes of them that were [copied ahead](Tracking::prepare) since the last freeze.
    ahead: usize,
    _watch: Userfault,
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
/// After tracking has turned out to be of no use.
const FORKS_UNTIL_NEXT_TRY: u32 = 16;

impl Tracking {
    /// Of this RAM, which calls [`end`](Self::end) before it goes.
    pub(super) fn of(ram: &Mapping) -> Self {
        // SAFETY: `end` lets go of it.
        let ram = Some(unsafe { ram.alias() });
        Self(Arc::new(Mutex::new(Tracker {
            ram,
            least: LEAST,
            ..Tracker::default()
        })))
    }

    /// The RAM goes. Waits for who works on it.
    pub(super) fn end(&self) {
        *self.lock() = Tracker::default();
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
            // Whoever works on it does just that.
            Err(_) => Ok(()),
        }
    }

    /// Does `work` if no writes are noticed, and nobody begins with that meanwhile.
    pub(super) fn unless_on<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        // Whoever works on it may be about to begin.
        let tracker = self.0.try_lock().ok()?;
        tracker.tracked.is_none().then(work)
    }

    /// Where the RAM, which stands still, is tracked: all that differs from its base, of
    /// which what is new has been copied into the arena.
    ///
    /// # Errors
    /// When the host is out of memory. Nothing has changed then.
    pub(super) fn freeze(
        &self,
        ram: &Mapping,
        pagemap: &Pagemap,
        spare: &Spare,
        hands: Option<&dyn Hands>,
    ) -> io::Result<Option<(Collected, Copied)>> {
        // Whoever works on it takes longer than copying everything.
        let Ok(mut tracker) = self.0.try_lock() else {
            return Ok(None);
        };
        let Some(Tracked { layers, ahead, .. }) = &mut tracker.tracked else {
            return Ok(None);
        };
        let find = |part| pagemap.written_ranges(ram, part);
        let mut new = collect(ram, find, spare, hands)?;
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
    /// When the host is out of memory.
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
            (Copied::All(len) | Copied::New { len, .. }, _) => len,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Tracker> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tracker {
    fn prepare(&mut self, pagemap: &Pagemap, anonymous: usize) -> io::Result<()> {
        let Some(ram) = &self.ram else { return Ok(()) };
        let Some(tracked) = &mut self.tracked else {
            return match self.not_before == 0 && anonymous >= self.least {
                true => self.begin(pagemap),
                false => Ok(()),
            };
        };
        let written = pagemap.written_ranges(ram, 0..ram.len())?;
        let len = ranges::len(&written);
        if len < self.least {
            return Ok(());
        }
        match copied_out(ram, pagemap, written) {
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

    /// From here on writes are noticed.
    fn begin(&mut self, pagemap: &Pagemap) -> io::Result<()> {
        let Some(ram) = &self.ram else { return Ok(()) };
        let Ok(watch) = Userfault::watch(ram) else {
            // This host has no such thing, and will not have it later.
            self.not_before = u32::MAX;
            return Ok(());
        };
        let ranges = pagemap.private_ranges(ram)?;
        self.tracked = Some(Tracked {
            layers: copied_out(ram, pagemap, ranges)?,
            ahead: 0,
            _watch: watch,
        });
        Ok(())
    }
}

/// What a machine has in `ranges`. They are protected first: a page that is written meanwhile
/// counts as written, so it does not matter how its copy turns out.
fn copied_out(ram: &Mapping, pagemap: &Pagemap, ranges: Vec<Range<usize>>) -> io::Result<Layers> {
    pagemap.protect(ram, &ranges)?;
    let file = memfd::create("hyperfork-changes", 0)?;
    let mut offset = 0;
    for range in &ranges {
        ram.write_out(range.clone(), &file, offset)?;
        offset += range.len() as u64;
    }
    memfd::seal(&file)?;
    Ok(Layers::of(ranges, Arc::new(file)))
}

/// The same contents in one file.
fn flattened(layers: &Layers) -> io::Result<Layers> {
    let file = memfd::create("hyperfork-changes", layers.len() as u64)?;
    let mut offset = 0;
    layers.for_each(|bytes| {
        file.write_all_at(bytes, offset)?;
        offset += bytes.len() as u64;
        Ok(())
    })?;
    memfd::seal(&file)?;
    Ok(Layers::of(layers.ranges(), Arc::new(file)))
}

#[cfg(test)]
impl Tracking {
    pub(super) fn begin_at(&self, least: usize) {
        self.lock().least = least;
    }

    pub(super) fn is_on(&self) -> bool {
        self.lock().tracked.is_some()
    }
}
