//! The RAM of a living machine.

use super::arena::{Arena, Spare};
use super::collect::{Collected, collect};
use super::free_pages::{FreePages, Frozen};
use super::image::{Primed, RamImage};
use super::layers::Layers;
use super::layout::ram_regions;
use super::own::Own;
use super::ranges;
use super::tracking::{Copied, Tracking};
use crate::sys::hands::{Alone, Hands};
use crate::sys::mapping::Mapping;
use crate::sys::memfd;
use crate::sys::pagemap::Pagemap;
use crate::sys::statm::Statm;
use crate::sys::swap::swapped;
use std::fs::File;
use std::io;
use std::mem;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

/// What backs a machine's RAM.
#[derive(Debug)]
enum Backing {
    /// Nothing yet: only the addresses are there (a shell).
    Reserved,
    /// A memory file nobody else has. Only a machine that was booted and never forked is
    /// like this.
    Own(Own),
    /// An image under private pages: what is mapped there, not all that was copied from.
    Frozen(RamImage),
    /// An image that a clone is likely to want, put there before there is one.
    Primed(Primed),
}

/// A machine's RAM. Its host addresses are fixed for life, whatever backs them.
#[derive(Debug)]
pub struct Ram {
    memory: Arc<GuestMemoryMmap>,
    backing: Backing,
    /// For the pages that the next freeze copies.
    spare: Spare,
    /// Tell which they are.
    pagemap: Arc<Pagemap>,
    statm: Statm,
    pub(super) tracking: Tracking,
    free_pages: FreePages,
    /// Whether the next freeze has so much to look through, or to copy, that it takes longer
    /// than waking those who could help.
    is_much: bool,
    // After `memory`, which points into it.
    mapping: Mapping,
}

/// How much memory a machine's RAM takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The frozen image: one and the same for all relatives, however much of it
    /// each has looked at.
    pub shared: u64,
    /// Nobody else's.
    pub private: u64,
    /// Of both, with the rest of this process: what the host has put into swap space.
    pub swapped: u64,
}

/// What a freeze leaves to be done where nobody waits.
#[derive(Debug, Default)]
#[must_use = "retire it off the fork path"]
pub struct Aside {
    /// Of a first freeze.
    moved: Option<Moved>,
    /// Where a later one has copied to, and where to put another one.
    arenas: Option<(Vec<Arena>, Spare)>,
    /// Who keeps track of what is written, and how much was copied.
    tracking: Option<(Tracking, Arc<Pagemap>, Copied)>,
}

/// What a first freeze moved aside, and the base, which is sealed when that is gone.
/// Unmapping it costs milliseconds per GiB.
#[derive(Debug)]
struct Moved {
    mapping: Mapping,
    base: Arc<File>,
}

/// Why RAM could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The host refused.
    #[error("cannot map {size} bytes of guest memory")]
    Map {
        /// Bytes wanted.
        size: u64,
        /// The system's reason.
        source: io::Error,
    },
    /// The regions do not form guest memory.
    #[error("cannot lay out {size} bytes of guest memory")]
    Layout {
        /// Bytes wanted.
        size: u64,
        /// The library's reason.
        source: MmapRegionError,
    },
}

/// [`Ram::is_much`]: bytes to look through, and such as may have to be copied. Either takes
/// 0.1 ms.
const MUCH: usize = 128 << 20;
const MUCH_OF_ITS_OWN: usize = 2 << 20;

impl Ram {
    /// Reserves addresses for `size` bytes of RAM, with nothing behind them.
    ///
    /// # Errors
    /// When the address space is used up.
    pub fn reserve(size: u64) -> Result<Self, RamError> {
        let mapping =
            Mapping::reserve(size as usize).map_err(|source| RamError::Map { size, source })?;
        let memory =
            guest_memory(&mapping, size).map_err(|source| RamError::Layout { size, source })?;
        Ok(Self {
            memory: Arc::new(memory),
            backing: Backing::Reserved,
            spare: Spare::default(),
            pagemap: open_pagemap().map_err(|source| RamError::Map { size, source })?,
            statm: Statm::open().map_err(|source| RamError::Map { size, source })?,
            tracking: Tracking::of(&mapping),
            free_pages: FreePages::of(size),
            is_much: false,
            mapping,
        })
    }

    /// Backs the RAM with fresh zeroed memory of its own.
    ///
    /// # Errors
    /// As `memfd_create(2)` and `mmap(2)`.
    pub fn back_with_zeroes(&mut self) -> io::Result<()> {
        let file = memfd::create("hyperfork-ram", self.size())?;
        self.mapping.place_shared(&file)?;
        self.mapping.prefer_huge_pages();
        let own = Own::new(file, &self.mapping)?;
        self.free_pages.take_from_file(own.file().clone());
        self.backing = Backing::Own(own);
        Ok(())
    }

    /// Backs the RAM with a frozen image.
    ///
    /// # Errors
    /// As [`RamImage::place`].
    pub fn back_with(&mut self, image: &RamImage) -> io::Result<()> {
        self.back_with_help(image, &Alone)
    }

    /// The same, with the help of others.
    ///
    /// # Errors
    /// As [`RamImage::place`].
    pub fn back_with_help(&mut self, image: &RamImage, hands: &dyn Hands) -> io::Result<()> {
        let primed = match &self.backing {
            Backing::Primed(primed) => Some(primed),
            _ => None,
        };
        let mapped = image.place(&mut self.mapping, primed, hands)?;
        self.stand_on(mapped.image);
        Ok(())
    }

    /// Puts an image there that the one of [`back_with`](Self::back_with) will probably
    /// differ little from, and makes the pages `touched`, which clones write first, the
    /// machine's own. Both then need not be done while a fork waits.
    ///
    /// # Errors
    /// As [`back_with`](Self::back_with).
    pub fn prime(&mut self, image: &RamImage, touched: &[Range<usize>]) -> io::Result<()> {
        self.backing = Backing::Primed(image.prime(&mut self.mapping, touched)?);
        Ok(())
    }

    /// Does of a [`freeze`](Self::freeze) what takes long, while the machine may run.
    ///
    /// # Errors
    /// When the host is out of memory. The freeze only takes longer then.
    pub fn prepare_freeze(&mut self) -> io::Result<()> {
        match &self.backing {
            Backing::Frozen(_) => {
                let resident = self.statm.resident()?;
                self.is_much = resident.anonymous >= MUCH_OF_ITS_OWN || resident.all >= MUCH;
                // So that whoever prepares need not stop because a page is being taken.
                let _untaken = self.free_pages.hold();
                self.tracking.prepare(&self.pagemap, resident.anonymous)
            }
            _ => self.prepare_freeze_base(),
        }
    }

    /// Does of a [`freeze_base`](Self::freeze_base) what takes long, while the machine may
    /// run.
    ///
    /// # Errors
    /// As [`prepare_freeze`](Self::prepare_freeze).
    pub fn prepare_freeze_base(&mut self) -> io::Result<()> {
        match &mut self.backing {
            Backing::Own(own) => {
                self.free_pages.close();
                own.freeze(&mut self.mapping)
            }
            Backing::Reserved | Backing::Frozen(_) | Backing::Primed(_) => Ok(()),
        }
    }

    /// Freezes what the RAM holds now. The machine goes on privately on top of
    /// the result, at the same addresses. It must stand still meanwhile.
    ///
    /// It takes time by the number of pages written since the base was frozen or, where
    /// these are many, since the last freeze; the first one also by the size of memory,
    /// unless it was [prepared](Self::prepare_freeze).
    ///
    /// # Errors
    /// When the host is out of memory. The machine's memory is then as before.
    ///
    /// # Panics
    /// On a shell, which holds nothing.
    pub fn freeze(&mut self) -> io::Result<(RamImage, Aside)> {
        self.freeze_with_help(&Alone)
    }

    /// The same, with the help of others.
    ///
    /// # Errors
    /// As [`freeze`](Self::freeze).
    ///
    /// # Panics
    /// On a shell, which holds nothing.
    pub fn freeze_with_help(&mut self, hands: &dyn Hands) -> io::Result<(RamImage, Aside)> {
        let (mut image, mut aside) = self.freeze_base()?;
        let (Collected { layers, arenas }, copied) = self.copy_own_pages(hands)?;
        image.changes.put(layers);
        aside.arenas = Some((arenas, self.spare.clone()));
        aside.tracking = Some((self.tracking.clone(), self.pagemap.clone(), copied));
        Ok((image, aside))
    }

    /// What lies in pages of the machine's own, on top of the frozen ones.
    fn copy_own_pages(&self, hands: &dyn Hands) -> io::Result<(Collected, Copied)> {
        let (ram, pagemap, spare) = (&self.mapping, &*self.pagemap, &self.spare);
        let hands = Some(hands).filter(|_| self.is_much);
        if let Some(tracked) = self.tracking.freeze(ram, pagemap, spare, hands)? {
            return Ok(tracked);
        }
        let find = |part| pagemap.private_ranges_in(ram, part);
        let collected = collect(ram, find, spare, hands)?;
        let len = collected.layers.len();
        Ok((collected, Copied::All(len)))
    }

    /// As [`freeze`](Self::freeze), but what the machine has in pages of its own is not in
    /// the image: a child made by `fork(2)` [inherits](Self::inherit) it.
    ///
    /// # Errors
    /// As [`freeze`](Self::freeze).
    ///
    /// # Panics
    /// On a shell, which holds nothing.
    pub fn freeze_base(&mut self) -> io::Result<(RamImage, Aside)> {
        self.prepare_freeze_base()?;
        let mut aside = Aside::default();
        let image = match mem::replace(&mut self.backing, Backing::Reserved) {
            Backing::Reserved | Backing::Primed(_) => panic!("a shell has no memory to freeze"),
            Backing::Frozen(image) => image,
            Backing::Own(own) => {
                let (base, mapping) = own.into_parts();
                aside.moved = Some(Moved {
                    mapping,
                    base: base.clone(),
                });
                let changes = Layers::default();
                RamImage { base, changes }
            }
        };
        self.stand_on(image.clone());
        Ok((image, aside))
    }

    /// The RAM is private on top of `image` from here on.
    fn stand_on(&mut self, image: RamImage) {
        self.free_pages.take_from_above(Frozen {
            image: image.clone(),
            // SAFETY: when the RAM goes, it closes `free_pages`, and so lets go of it.
            ram: unsafe { self.mapping.alias() },
            pagemap: self.pagemap.clone(),
            tracking: self.tracking.clone(),
        });
        self.backing = Backing::Frozen(image);
    }

    /// In a child made by `fork(2)`: takes over the parent's RAM, which the child has at
    /// the same addresses with all that was written since the parent's
    /// [`freeze_base`](Self::freeze_base), of which `image` is.
    ///
    /// # Errors
    /// As [`Pagemap::open`].
    pub fn inherit(&mut self, image: RamImage) -> io::Result<Self> {
        let mut ram = Self {
            memory: self.memory.clone(),
            backing: Backing::Reserved,
            spare: Spare::default(),
            pagemap: open_pagemap()?,
            statm: Statm::open()?,
            tracking: Tracking::of(&self.mapping),
            free_pages: FreePages::of(self.size()),
            is_much: false,
            mapping: self.mapping.take(),
        };
        ram.stand_on(image);
        Ok(ram)
    }

    /// Bytes of it that exist: shared with relatives, and the machine's own.
    ///
    /// # Errors
    /// As [`Pagemap::private_ranges`] and [`swapped`].
    pub fn usage(&self) -> io::Result<Usage> {
        // Allocated, which for a sparse file is less than its length.
        let allocated = |file: &File| file.metadata().map(|meta| meta.blocks() * 512);
        let swapped = swapped()?;
        Ok(match &self.backing {
            Backing::Reserved | Backing::Primed(_) => Usage::default(),
            Backing::Own(own) => Usage {
                shared: 0,
                private: allocated(own.file())?,
                swapped,
            },
            Backing::Frozen(image) => {
                let own = self.pagemap.private_ranges(&self.mapping)?;
                Usage {
                    shared: allocated(&image.base)? + image.changes.len() as u64,
                    private: ranges::len(&own) as u64,
                    swapped,
                }
            }
        })
    }

    /// The pages it has written since it was made from an image, as ranges of bytes, up
    /// to `most` bytes in all. Nothing for a machine without one.
    ///
    /// # Errors
    /// As [`Pagemap::private_ranges`].
    pub fn written(&self, most: usize) -> io::Result<Vec<Range<usize>>> {
        match &self.backing {
            Backing::Frozen(_) => Ok(ranges::first(
                &self.pagemap.private_ranges(&self.mapping)?,
                most,
            )),
            _ => Ok(Vec::new()),
        }
    }

    /// Bytes of guest memory.
    pub fn size(&self) -> u64 {
        self.mapping.len() as u64
    }

    /// Guest memory for devices and loaders. Stays valid across freezes.
    pub fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.memory
    }

    /// What takes back pages that its guest has free.
    pub fn free_pages(&self) -> &FreePages {
        &self.free_pages
    }

    /// Where the RAM begins in the monitor's address space.
    pub fn host_base(&self) -> *mut u8 {
        self.mapping.base()
    }
}

impl Aside {
    /// Unmaps what was moved aside, seals the image, and makes ready for the next one.
    ///
    /// # Errors
    /// When the image cannot be sealed: somebody still has it mapped writable. When the
    /// host is out of memory.
    pub fn retire(self) -> io::Result<()> {
        if let Some(mut moved) = self.moved {
            moved.seal()?;
        }
        let next = match self.tracking {
            Some((tracking, pagemap, copied)) => tracking.settle(copied, &pagemap)?,
            None => 0,
        };
        if let Some((arenas, spare)) = self.arenas
            && !arenas.is_empty()
        {
            arenas.into_iter().try_for_each(Arena::finish)?;
            spare.prepare(next)?;
        }
        Ok(())
    }
}

impl Moved {
    fn seal(&mut self) -> io::Result<()> {
        drop(self.mapping.take());
        memfd::seal(&*self.base)
    }
}

impl Drop for Moved {
    /// Nobody may write the base even if the fork came to nothing.
    fn drop(&mut self) {
        let _ = self.seal();
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        self.free_pages.close();
        self.tracking.end();
    }
}

fn open_pagemap() -> io::Result<Arc<Pagemap>> {
    Pagemap::open().map(Arc::new)
}

fn guest_memory(mapping: &Mapping, size: u64) -> Result<GuestMemoryMmap, MmapRegionError> {
    let regions = ram_regions(size)
        .into_iter()
        .map(|region| {
            let raw = mapping.region(region.offset as usize, region.len as usize)?;
            Ok(GuestRegionMmap::new(raw, GuestAddress(region.start))
                .expect("the layout ends far below 2^64"))
        })
        .collect::<Result<Vec<_>, MmapRegionError>>()?;
    Ok(GuestMemoryMmap::from_regions(regions).expect("the layout's regions are ascending"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::userfault::Userfault;
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::{AtomicBool, Ordering};
    use vm_memory::{Bytes, GuestMemoryBackend};

    const SIZE: u64 = 4 << 20;

    fn read(ram: &Ram, address: u64) -> u64 {
        ram.memory().read_obj(GuestAddress(address)).unwrap()
    }

    fn write(ram: &Ram, address: u64, value: u64) {
        ram.memory()
            .write_obj(value, GuestAddress(address))
            .unwrap();
    }

    fn clone_of(image: &RamImage) -> Ram {
        let mut ram = Ram::reserve(SIZE).unwrap();
        ram.back_with(image).unwrap();
        ram
    }

    #[test]
    fn parent_and_children_share_the_past_and_nothing_else() {
        let mut parent = Ram::reserve(SIZE).unwrap();
        parent.back_with_zeroes().unwrap();
        write(&parent, 0x1000, 1);
        let (image, aside) = parent.freeze().unwrap();
        write(&parent, 0x1000, 2);
        aside.retire().unwrap();
        let (one, two) = (clone_of(&image), clone_of(&image));
        write(&one, 0x1000, 3);
        assert_eq!(
            [
                read(&parent, 0x1000),
                read(&one, 0x1000),
                read(&two, 0x1000)
            ],
            [2, 3, 1]
        );
    }

    #[test]
    fn a_later_fork_carries_what_was_written_since_and_a_grandchild_all_of_it() {
        let mut parent = Ram::reserve(SIZE).unwrap();
        parent.back_with_zeroes().unwrap();
        write(&parent, 0x1000, 1);
        let (_, aside) = parent.freeze().unwrap();
        drop(aside);
        write(&parent, 0x5000, 5);
        write(&parent, 0x6008, 6);
        let (image, aside) = parent.freeze().unwrap();
        // A spare arena makes no difference.
        aside.retire().unwrap();
        let (image_again, aside) = parent.freeze().unwrap();
        drop((image_again, aside));
        write(&parent, 0x5000, 55);
        let mut child = clone_of(&image);
        write(&child, 0x9000, 9);
        let (image, _) = child.freeze().unwrap();
        write(&child, 0x9000, 99);
        let grandchild = clone_of(&image);
        let seen = [0x1000, 0x5000, 0x6008, 0x9000].map(|address| read(&grandchild, address));
        assert_eq!(seen, [1, 5, 6, 9]);
    }

    #[test]
    fn what_a_mapping_was_primed_with_never_shows_in_a_clone_of_another_line() {
        let mut parent = Ram::reserve(SIZE).unwrap();
        parent.back_with_zeroes().unwrap();
        write(&parent, 0x1000, 1);
        let (first, _aside) = parent.freeze().unwrap();
        let relative = clone_of(&first);
        write(&parent, 0x1000, 11);
        write(&parent, 0x2000, 12);
        let (image, _aside) = parent.freeze().unwrap();
        let primed = || {
            let mut ram = Ram::reserve(SIZE).unwrap();
            ram.prime(&image, &[0x2000..0x4000, 0x8000..0x9000])
                .unwrap();
            ram
        };
        // A later image of the same line.
        write(&parent, 0x1000, 21);
        write(&parent, 0x8000, 28);
        let (later, _aside) = parent.freeze().unwrap();
        let mut clone = primed();
        clone.back_with(&later).unwrap();
        let seen = |ram: &Ram| [0x1000, 0x2000, 0x3000, 0x8000].map(|at| read(ram, at));
        assert_eq!(seen(&clone), [21, 12, 0, 28]);
        // One that shares the base only.
        write(&relative, 0x8000, 98);
        let mut relative = relative;
        let (other, _aside) = relative.freeze().unwrap();
        let mut clone = primed();
        clone.back_with(&other).unwrap();
        assert_eq!(seen(&clone), [1, 0, 0, 98]);
        // One that shares nothing.
        let mut stranger = Ram::reserve(SIZE).unwrap();
        stranger.back_with_zeroes().unwrap();
        let (strange, _aside) = stranger.freeze().unwrap();
        let mut clone = primed();
        clone.back_with(&strange).unwrap();
        assert_eq!(seen(&clone), [0, 0, 0, 0]);
    }

    #[test]
    fn the_first_freeze_can_be_prepared_while_the_machine_writes() {
        const PAGES: u64 = 80 << 8;
        let mut parent = Ram::reserve(PAGES * 0x1000).unwrap();
        parent.back_with_zeroes().unwrap();
        let memory = parent.memory().clone();
        let (begun, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        let last = std::thread::scope(|scope| {
            let guest = scope.spawn(|| {
                let mut value = 0;
                // All over the pieces, and the last page of one.
                let pages = [0, 3, 8191, 8192, 12_345, PAGES - 1];
                while !stop.load(Ordering::Relaxed) {
                    value += 1;
                    for page in pages {
                        let address = GuestAddress(page * 0x1000);
                        if value > 1 {
                            // Nothing it has written is ever gone.
                            let read: u64 = memory.read_obj(address).unwrap();
                            assert_eq!(read, value - 1);
                        }
                        memory.write_obj(value, address).unwrap();
                    }
                    begun.store(true, Ordering::Relaxed);
                }
                value
            });
            while !begun.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            parent.prepare_freeze().unwrap();
            stop.store(true, Ordering::Relaxed);
            guest.join().unwrap()
        });
        let (image, aside) = parent.freeze().unwrap();
        write(&parent, 0x3000, 0);
        aside.retire().unwrap();
        let mut clone = Ram::reserve(PAGES * 0x1000).unwrap();
        clone.back_with(&image).unwrap();
        let seen = [0, 3, 8191, 8192, 12_345, PAGES - 1].map(|page| read(&clone, page * 0x1000));
        assert_eq!(seen, [last; 6]);
    }

    #[test]
    fn the_base_is_sealed_even_if_the_fork_comes_to_nothing() {
        let mut parent = Ram::reserve(SIZE).unwrap();
        parent.back_with_zeroes().unwrap();
        let (image, aside) = parent.freeze().unwrap();
        drop(aside);
        assert!(image.base.write_at(&[1], 0).is_err());
    }

    /// Long runs of pages are mapped into clones, short ones copied.
    #[test]
    fn a_long_line_of_clones_carries_runs_of_any_length() {
        const PAGES: u64 = SIZE / 0x1000;
        let mut machine = Ram::reserve(SIZE).unwrap();
        machine.back_with_zeroes().unwrap();
        let mut expected = vec![0; PAGES as usize];
        let mut deepest = 0;
        for generation in 1..80 {
            let (start, len) = (generation * 17 % PAGES, generation * 11 % 40);
            for page in start..(start + len).min(PAGES) {
                write(&machine, page * 0x1000 + 8, generation);
                expected[page as usize] = generation;
            }
            let (image, aside) = machine.freeze().unwrap();
            deepest = deepest.max(image.changes.depth());
            let touched = [0x3000..0x5000, 0x100_000..0x101_000];
            let mut clone = Ram::reserve(SIZE).unwrap();
            if generation % 3 > 0 {
                clone.prime(&image, &touched).unwrap();
            }
            if generation % 3 > 1 {
                // Primed for the clone before this one.
                write(&machine, 0x3008, 1000 + generation);
                write(&machine, 0x90_008, 1000 + generation);
                let (image, _aside) = machine.freeze().unwrap();
                expected[3] = 1000 + generation;
                expected[0x90] = 1000 + generation;
                clone.back_with(&image).unwrap();
            } else {
                clone.back_with(&image).unwrap();
            }
            // Neither what the parent writes then, nor what a sibling does, is seen.
            let sibling = clone_of(&image);
            for page in 0..PAGES {
                write(&machine, page * 0x1000 + 8, u64::MAX);
                write(&sibling, page * 0x1000 + 8, u64::MAX);
            }
            aside.retire().unwrap();
            let pages = 0..PAGES;
            let seen: Vec<_> = pages.map(|page| read(&clone, page * 0x1000 + 8)).collect();
            assert_eq!(seen, expected, "generation {generation}");
            machine = clone;
        }
        // So deep that all was copied once.
        assert_eq!(deepest, super::super::image::MOST_FILES + 1);
    }

    #[test]
    fn clones_share_what_is_mapped() {
        let mut parent = Ram::reserve(SIZE).unwrap();
        parent.back_with_zeroes().unwrap();
        let (_, aside) = parent.freeze().unwrap();
        drop(aside);
        for page in 0..64 {
            write(&parent, page * 0x1000, 1);
        }
        write(&parent, 0x200_000, 1);
        let (image, _aside) = parent.freeze().unwrap();
        assert_eq!(parent.usage().unwrap().private, 65 << 12);
        assert_eq!(clone_of(&image).usage().unwrap().private, 1 << 12);
    }

    /// One page in three, in an order of its own each time.
    fn scattered(round: u64) -> impl Iterator<Item = u64> {
        (0..SIZE / 0x1000).filter(move |page| (page * 7 + round * 5).is_multiple_of(3))
    }

    #[test]
    fn a_tracked_machine_is_copied_exactly_whatever_it_writes_between_forks() {
        let mut parent = Ram::reserve(SIZE).unwrap();
        parent.back_with_zeroes().unwrap();
        parent.tracking.begin_at(1);
        let (_, aside) = parent.freeze().unwrap();
        aside.retire().unwrap();
        let mut expected = vec![0; (SIZE / 0x1000) as usize];
        let mut was_tracked = 0;
        for round in 1..40 {
            // Few at most times, and so many at some that tracking is given up.
            let most = if round % 13 == 0 { usize::MAX } else { 20 };
            for page in scattered(round).skip(round as usize % 50).take(most) {
                write(&parent, page * 0x1000 + 8, round);
                expected[page as usize] = round;
            }
            if round % 3 > 0 {
                parent.prepare_freeze().unwrap();
                for page in scattered(round + 1).take(round as usize % 20) {
                    write(&parent, page * 0x1000 + 8, round);
                    expected[page as usize] = round;
                }
            }
            was_tracked += u32::from(parent.tracking.is_on());
            let (image, aside) = parent.freeze().unwrap();
            // What comes later is in no clone.
            write(&parent, 8, 1000 + round);
            aside.retire().unwrap();
            let clone = clone_of(&image);
            let seen: Vec<_> = (0..SIZE / 0x1000)
                .map(|page| read(&clone, page * 0x1000 + 8))
                .collect();
            assert_eq!(seen, expected, "round {round}");
            expected[0] = 1000 + round;
        }
        let can = Userfault::watch(&parent.mapping).is_ok() || parent.tracking.is_on();
        assert_eq!(was_tracked > 10, can, "{was_tracked}");
    }

    #[test]
    fn a_machine_that_is_written_while_tracking_begins_is_copied_exactly() {
        let mut parent = Ram::reserve(SIZE).unwrap();
        parent.back_with_zeroes().unwrap();
        let (_, aside) = parent.freeze().unwrap();
        aside.retire().unwrap();
        for page in 0..SIZE / 0x1000 {
            write(&parent, page * 0x1000, 1);
        }
        for round in 0..20 {
            parent.tracking.end();
            parent.tracking = Tracking::of(&parent.mapping);
            parent.tracking.begin_at(1);
            let (_, aside) = parent.freeze().unwrap();
            let memory = parent.memory().clone();
            let stop = AtomicBool::new(false);
            let last = std::thread::scope(|scope| {
                let guest = scope.spawn(|| {
                    let mut value = 1 + round * 1_000_000;
                    loop {
                        value += 1;
                        for page in [3, 99, 500, 777] {
                            let address = GuestAddress(page * 0x1000);
                            memory.write_obj(value, address).unwrap();
                        }
                        if stop.load(Ordering::Relaxed) {
                            break value;
                        }
                    }
                });
                aside.retire().unwrap();
                if round % 2 > 0 {
                    parent.prepare_freeze().unwrap();
                }
                stop.store(true, Ordering::Relaxed);
                guest.join().unwrap()
            });
            let (image, aside) = parent.freeze().unwrap();
            aside.retire().unwrap();
            let clone = clone_of(&image);
            let seen = [3, 99, 500, 777, 4].map(|page| read(&clone, page * 0x1000));
            assert_eq!(seen, [last, last, last, last, 1]);
        }
    }

    #[test]
    fn an_image_of_another_size_is_refused() {
        let mut parent = Ram::reserve(SIZE).unwrap();
        parent.back_with_zeroes().unwrap();
        let (image, _aside) = parent.freeze().unwrap();
        let mut other = Ram::reserve(SIZE * 2).unwrap();
        assert_eq!(
            other.back_with(&image).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }

    #[test]
    fn memory_goes_around_the_hole() {
        let ram = Ram::reserve(5 << 30).unwrap();
        assert_eq!(ram.memory().num_regions(), 2);
        assert!(ram.memory().find_region(GuestAddress(HOLE)).is_none());
        const HOLE: u64 = super::super::layout::HOLE_START;
    }
}
