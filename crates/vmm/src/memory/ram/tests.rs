mod sealing;

use super::*;
use crate::memory::image::MOST_FILES;
use std::sync::atomic::{AtomicBool, Ordering};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

const SIZE: u64 = 4 << 20;

fn read(ram: &Ram, address: u64) -> u64 {
    ram.memory().read_obj(GuestAddress(address)).unwrap()
}

fn write(ram: &Ram, address: u64, value: u64) {
    ram.memory()
        .write_obj(value, GuestAddress(address))
        .unwrap();
}

fn booted() -> Ram {
    let mut ram = Ram::reserve(SIZE).unwrap();
    ram.back_with_zeroes().unwrap();
    ram
}

fn freeze(ram: &mut Ram) -> io::Result<(RamImage, DeferredCleanup)> {
    // SAFETY: the test writes it before and after, not meanwhile.
    let image = ram.freeze(&unsafe { AtRest::new() })?;
    Ok((image, ram.take_cleanup()))
}

fn clone_of(image: &RamImage) -> Ram {
    let mut ram = Ram::reserve(SIZE).unwrap();
    ram.back_with(image).unwrap();
    ram
}

#[test]
fn parent_and_children_share_the_past_and_nothing_else() {
    let mut parent = booted();
    write(&parent, 0x1000, 1);
    let (image, cleanup) = freeze(&mut parent).unwrap();
    write(&parent, 0x1000, 2);
    cleanup.run().unwrap();
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
    let mut parent = booted();
    write(&parent, 0x1000, 1);
    let (_, cleanup) = freeze(&mut parent).unwrap();
    drop(cleanup);
    write(&parent, 0x5000, 5);
    write(&parent, 0x6008, 6);
    let (image, cleanup) = freeze(&mut parent).unwrap();
    // A spare arena makes no difference.
    cleanup.run().unwrap();
    let (image_again, cleanup) = freeze(&mut parent).unwrap();
    drop((image_again, cleanup));
    write(&parent, 0x5000, 55);
    let mut child = clone_of(&image);
    write(&child, 0x9000, 9);
    let (image, _) = freeze(&mut child).unwrap();
    write(&child, 0x9000, 99);
    let grandchild = clone_of(&image);
    let seen = [0x1000, 0x5000, 0x6008, 0x9000].map(|address| read(&grandchild, address));
    assert_eq!(seen, [1, 5, 6, 9]);
}

#[test]
fn what_a_shell_was_preloaded_with_never_shows_in_a_clone_of_another_line() {
    let mut parent = booted();
    write(&parent, 0x1000, 1);
    let (first, _cleanup) = freeze(&mut parent).unwrap();
    let relative = clone_of(&first);
    write(&parent, 0x1000, 11);
    write(&parent, 0x2000, 12);
    let (image, _cleanup) = freeze(&mut parent).unwrap();
    let preloaded = || {
        let mut ram = Ram::reserve(SIZE).unwrap();
        ram.preload(&image, &[0x2000..0x4000, 0x8000..0x9000])
            .unwrap();
        ram
    };
    // A later image of the same line.
    write(&parent, 0x1000, 21);
    write(&parent, 0x8000, 28);
    let (later, _cleanup) = freeze(&mut parent).unwrap();
    let mut clone = preloaded();
    clone.back_with(&later).unwrap();
    let seen = |ram: &Ram| [0x1000, 0x2000, 0x3000, 0x8000].map(|at| read(ram, at));
    assert_eq!(seen(&clone), [21, 12, 0, 28]);
    // One that shares the base only.
    write(&relative, 0x8000, 98);
    let mut relative = relative;
    let (other, _cleanup) = freeze(&mut relative).unwrap();
    let mut clone = preloaded();
    clone.back_with(&other).unwrap();
    assert_eq!(seen(&clone), [1, 0, 0, 98]);
    // One that shares nothing.
    let mut stranger = Ram::reserve(SIZE).unwrap();
    stranger.back_with_zeroes().unwrap();
    let (strange, _cleanup) = freeze(&mut stranger).unwrap();
    let mut clone = preloaded();
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
    let (image, cleanup) = freeze(&mut parent).unwrap();
    write(&parent, 0x3000, 0);
    cleanup.run().unwrap();
    let mut clone = Ram::reserve(PAGES * 0x1000).unwrap();
    clone.back_with(&image).unwrap();
    let seen = [0, 3, 8191, 8192, 12_345, PAGES - 1].map(|page| read(&clone, page * 0x1000));
    assert_eq!(seen, [last; 6]);
}

#[test]
fn a_shell_has_nothing_to_freeze() {
    let mut shell = Ram::reserve(SIZE).unwrap();
    let error = freeze(&mut shell).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    let (image, _cleanup) = freeze(&mut booted()).unwrap();
    shell.preload(&image, &[]).unwrap();
    assert!(freeze(&mut shell).is_err());
    // One that has warmed up is given an image like any other.
    let warm = booted();
    write(&warm, 0x1000, 1);
    let mut clone = warm;
    clone.back_with(&image).unwrap();
    assert_eq!(read(&clone, 0x1000), 0);
}

#[test]
fn guest_memory_can_be_used_as_long_as_it_is_kept() {
    let parent = booted();
    write(&parent, 0x1000, 1);
    let memory = parent.memory().clone();
    drop(parent);
    // Other memory is not put at these addresses.
    let _other = booted();
    memory.write_obj(2_u64, GuestAddress(0x2000)).unwrap();
    let seen = [0x1000, 0x2000].map(|at| memory.read_obj::<u64>(GuestAddress(at)).unwrap());
    assert_eq!(seen, [1, 2]);
}

#[test]
fn a_machine_that_another_userfaultfd_watches_is_tracked_once_that_is_gone() {
    let Some(other) = open_userfault().unwrap() else {
        // This host has none.
        return assert!(Userfault::open().unwrap_err().is_final());
    };
    let mut parent = booted();
    parent.tracking.begin_at(1);
    let (_, cleanup) = freeze(&mut parent).unwrap();
    cleanup.run().unwrap();
    write(&parent, 0x1000, 1);
    let watch = other.watch(parent.mapping.range()).unwrap();
    let (_, cleanup) = freeze(&mut parent).unwrap();
    let error = cleanup.run().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    drop(watch);
    let mut forks = 0;
    while !parent.tracking.is_on() {
        forks += 1;
        assert!(forks < 100, "it is never tried again");
        write(&parent, 0x1000, forks);
        let (image, cleanup) = freeze(&mut parent).unwrap();
        cleanup.run().unwrap();
        assert_eq!(read(&clone_of(&image), 0x1000), forks);
    }
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
        let (image, cleanup) = freeze(&mut machine).unwrap();
        deepest = deepest.max(image.changes.depth());
        let touched = [0x3000..0x5000, 0x100_000..0x101_000];
        let mut clone = Ram::reserve(SIZE).unwrap();
        if generation % 3 > 0 {
            clone.preload(&image, &touched).unwrap();
        }
        if generation % 3 > 1 {
            // Preloaded for the clone before this one.
            write(&machine, 0x3008, 1000 + generation);
            write(&machine, 0x90_008, 1000 + generation);
            let (image, _cleanup) = freeze(&mut machine).unwrap();
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
        cleanup.run().unwrap();
        let pages = 0..PAGES;
        let seen: Vec<_> = pages.map(|page| read(&clone, page * 0x1000 + 8)).collect();
        assert_eq!(seen, expected, "generation {generation}");
        machine = clone;
    }
    // So deep that all was copied once.
    assert_eq!(deepest, MOST_FILES + 1);
}

#[test]
fn clones_share_what_is_mapped() {
    let mut parent = booted();
    let (_, cleanup) = freeze(&mut parent).unwrap();
    drop(cleanup);
    for page in 0..64 {
        write(&parent, page * 0x1000, 1);
    }
    write(&parent, 0x200_000, 1);
    let (image, _cleanup) = freeze(&mut parent).unwrap();
    assert_eq!(parent.usage().unwrap().private, 65 << 12);
    assert_eq!(clone_of(&image).usage().unwrap().private, 1 << 12);
}

/// One page in three, in an order of its own each time.
fn scattered(round: u64) -> impl Iterator<Item = u64> {
    (0..SIZE / 0x1000).filter(move |page| (page * 7 + round * 5).is_multiple_of(3))
}

#[test]
fn a_tracked_machine_is_copied_exactly_whatever_it_writes_between_forks() {
    let mut parent = booted();
    parent.tracking.begin_at(1);
    let (_, cleanup) = freeze(&mut parent).unwrap();
    cleanup.run().unwrap();
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
        let (image, cleanup) = freeze(&mut parent).unwrap();
        // What comes later is in no clone.
        write(&parent, 8, 1000 + round);
        cleanup.run().unwrap();
        let clone = clone_of(&image);
        let seen: Vec<_> = (0..SIZE / 0x1000)
            .map(|page| read(&clone, page * 0x1000 + 8))
            .collect();
        assert_eq!(seen, expected, "round {round}");
        expected[0] = 1000 + round;
    }
    let can = open_userfault().unwrap().is_some();
    assert_eq!(was_tracked > 10, can, "{was_tracked}");
}

#[test]
fn a_machine_that_is_written_while_tracking_begins_is_copied_exactly() {
    let mut parent = booted();
    let (_, cleanup) = freeze(&mut parent).unwrap();
    cleanup.run().unwrap();
    for page in 0..SIZE / 0x1000 {
        write(&parent, page * 0x1000, 1);
    }
    for round in 0..20 {
        parent.tracking.reset();
        parent.tracking.begin_at(1);
        let (_, cleanup) = freeze(&mut parent).unwrap();
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
            cleanup.run().unwrap();
            if round % 2 > 0 {
                parent.prepare_freeze().unwrap();
            }
            stop.store(true, Ordering::Relaxed);
            guest.join().unwrap()
        });
        let (image, cleanup) = freeze(&mut parent).unwrap();
        cleanup.run().unwrap();
        let clone = clone_of(&image);
        let seen = [3, 99, 500, 777, 4].map(|page| read(&clone, page * 0x1000));
        assert_eq!(seen, [last, last, last, last, 1]);
    }
}

#[test]
fn an_image_of_another_size_is_refused() {
    let mut parent = booted();
    let (image, _cleanup) = freeze(&mut parent).unwrap();
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
    const HOLE: u64 = layout::HOLE_START;
}
