use super::*;
use crate::memory::layout::{HOLE_END, HOLE_START};
use crate::memory::{AtRest, Ram, RamImage};
use vm_memory::{Bytes, GuestAddress};

const SIZE: u64 = 4 << 20;
const PAGES: u64 = SIZE >> 12;

fn booted() -> Ram {
    let mut ram = Ram::reserve(SIZE).unwrap();
    ram.back_with_zeroes().unwrap();
    ram
}

fn frozen(ram: &mut Ram) -> RamImage {
    // SAFETY: only this test writes it, and not meanwhile.
    let image = ram.freeze(&unsafe { AtRest::new() }).unwrap();
    ram.take_cleanup().run().unwrap();
    image
}

fn clone_of(image: &RamImage) -> Ram {
    let mut ram = Ram::reserve(SIZE).unwrap();
    ram.back_with(image).unwrap();
    ram
}

fn read(ram: &Ram, page: u64) -> u64 {
    ram.memory().read_obj(GuestAddress(page << 12)).unwrap()
}

fn write(ram: &Ram, pages: Range<u64>, value: u64) {
    for page in pages {
        let address = GuestAddress(page << 12);
        ram.memory().write_obj(value, address).unwrap();
    }
}

fn take(ram: &Ram, pages: Range<u64>) {
    let (start, len) = (pages.start << 12, (pages.end - pages.start) << 12);
    ram.free_pages().take(start, len).unwrap();
}

fn own_pages(ram: &Ram) -> u64 {
    ram.usage().unwrap().private >> 12
}

#[test]
fn what_is_taken_before_the_first_freeze_is_in_no_image() {
    let mut parent = booted();
    write(&parent, 0..64, 1);
    take(&parent, 16..48);
    assert_eq!(own_pages(&parent), 32);
    // Some of it is used again.
    write(&parent, 20..24, 2);
    let image = frozen(&mut parent);
    assert_eq!(parent.usage().unwrap().shared, 36 << 12);
    let clone = clone_of(&image);
    for ram in [&parent, &clone] {
        let seen = [15, 16, 19, 20, 23, 24, 47, 48].map(|page| read(ram, page));
        assert_eq!(seen, [1, 0, 0, 2, 2, 0, 0, 1]);
    }
}

#[test]
fn nothing_is_taken_while_a_freeze_is_prepared() {
    let mut parent = booted();
    write(&parent, 0..64, 1);
    parent.prepare_freeze().unwrap();
    take(&parent, 0..PAGES);
    let image = frozen(&mut parent);
    let clone = clone_of(&image);
    assert!((0..64).all(|page| read(&clone, page) == 1));

    write(&parent, 100..110, 2);
    let held = parent.free_pages().backing.lock().unwrap();
    take(&parent, 100..110);
    drop(held);
    assert_eq!(own_pages(&parent), 10);
    take(&parent, 100..110);
    assert_eq!(own_pages(&parent), 0);
}

#[test]
fn afterwards_own_pages_are_taken_where_frozen_ones_are_zeroes() {
    let mut parent = booted();
    write(&parent, 0..64, 1);
    // In pages that were never touched, and that were taken.
    take(&parent, 32..64);
    let image = frozen(&mut parent);
    let (clone, sibling) = (clone_of(&image), clone_of(&image));
    for ram in [&parent, &clone, &sibling] {
        write(ram, 0..100, 2);
        assert_eq!(own_pages(ram), 100);
    }
    for ram in [&parent, &clone] {
        take(ram, 0..PAGES);
        assert_eq!(own_pages(ram), 32);
        let seen = [0, 31, 32, 99].map(|page| read(ram, page));
        assert_eq!(seen, [2, 2, 0, 0]);
    }
    assert_eq!(own_pages(&sibling), 100);
    assert!((0..100).all(|page| read(&sibling, page) == 2));
    let later = clone_of(&image);
    let seen = [0, 31, 32, 99].map(|page| read(&later, page));
    assert_eq!(seen, [1, 1, 0, 0]);
}

/// A template that has held a secret at one fork and wiped it before the next must not
/// give it to clones of that.
#[test]
fn what_was_overwritten_does_not_come_to_light_again() {
    const SECRET: u64 = 0x5ec7e7;
    let mut parent = booted();
    write(&parent, 0..32, SECRET);
    frozen(&mut parent);
    // Of the later pages clones get small pieces as copies, and large ones are mapped.
    write(&parent, 100..101, SECRET);
    write(&parent, 200..264, SECRET);
    let trusted = clone_of(&frozen(&mut parent));
    write(&parent, 0..32, 0);
    write(&parent, 100..101, 0);
    write(&parent, 200..264, 0);
    write(&trusted, 200..264, 0);
    for ram in [&parent, &trusted] {
        take(ram, 0..PAGES);
    }
    assert!((200..264).all(|page| read(&trusted, page) == 0));
    let untrusted = clone_of(&frozen(&mut parent));
    take(&untrusted, 0..PAGES);
    for ram in [&parent, &untrusted] {
        assert!((0..PAGES).all(|page| read(ram, page) == 0));
    }
}

/// Of each page what was written last or, once it has been taken, that or zero: in the machine
/// and in all its clones the same, whether or not its writes are tracked.
#[test]
fn machine_and_clones_agree_about_every_page() {
    for (tracked, is_clone) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut ram = booted();
        write(&ram, 0..300, 1);
        take(&ram, 200..300);
        let image = frozen(&mut ram);
        if is_clone {
            write(&ram, 700..800, 2);
            let image = frozen(&mut ram);
            ram = clone_of(&image);
        }
        // Otherwise it depends on what other tests have in memory.
        ram.tracking.begin_at(if tracked { 1 } else { usize::MAX });
        if tracked {
            frozen(&mut ram);
            write(&ram, 400..410, 3);
        }
        drop(image);
        let mut written: Vec<u64> = (0..PAGES).map(|page| read(&ram, page)).collect();
        let mut taken = 0;
        for round in 1..60 {
            for step in 0..20 {
                let page = (round * 131 + step * 37) % PAGES;
                write(&ram, page..page + 1, round + 10);
                written[page as usize] = round + 10;
            }
            let (page, count) = ((round * 89) % (PAGES - 64), 1 + round % 64);
            let before = own_pages(&ram);
            take(&ram, page..page + count);
            taken += before - own_pages(&ram);
            for page in page..page + count {
                let seen = read(&ram, page);
                assert!(seen == written[page as usize] || seen == 0);
                written[page as usize] = seen;
            }
            if round % 4 == 0 {
                ram.prepare_freeze().unwrap();
                write(&ram, page..page + 1, round);
                written[page as usize] = round;
            }
            if round % 2 == 0 {
                let clone = clone_of(&frozen(&mut ram));
                for (page, &value) in (0..).zip(&written) {
                    assert_eq!([&ram, &clone].map(|ram| read(ram, page)), [value; 2]);
                }
            }
        }
        assert_eq!(ram.tracking.is_on(), tracked);
        assert_eq!(taken > 0, !tracked);
    }
}

#[test]
fn nothing_is_taken_of_memory_that_is_not_there_or_no_more() {
    let ram = booted();
    write(&ram, 0..PAGES, 1);
    let free_pages = ram.free_pages().clone();
    for (start, len) in [
        (SIZE, 1),
        (SIZE - 4096, 4097),
        (0, SIZE + 1),
        (0, u64::MAX),
        (4096, u64::MAX - 4095),
        (u64::MAX, 1),
        (HOLE_START, 4096),
        (HOLE_END, 4096),
    ] {
        let error = free_pages.take(start, len).unwrap_err();
        assert!(error.to_string().contains("no memory at"), "{error}");
    }
    assert_eq!(own_pages(&ram), PAGES);
    free_pages.take(SIZE, 0).unwrap();
    drop(ram);
    free_pages.take(0, SIZE).unwrap();
}

#[test]
fn addresses_above_the_hole_are_those_of_the_rest_of_memory() {
    let regions = ram_regions(HOLE_START + SIZE);
    let in_low = |start, end| whole_pages(start, end, &regions[0]);
    let in_high = |start, end| whole_pages(start, end, &regions[1]);
    assert_eq!(in_low(0x1000, 0x3000), 0x1000..0x3000);
    assert_eq!(in_low(0x1001, 0x3fff), 0x2000..0x3000);
    assert!(in_low(0x1001, 0x2fff).is_empty());
    let start = HOLE_START as usize;
    assert_eq!(in_high(HOLE_END, HOLE_END + 0x1000), start..start + 0x1000);

    let ram = Ram::reserve(HOLE_START + SIZE).unwrap();
    let free_pages = ram.free_pages();
    free_pages.take(HOLE_END, SIZE).unwrap();
    free_pages.take(0, HOLE_START).unwrap();
    assert!(free_pages.take(HOLE_START - 4096, 8192).is_err());
    assert!(free_pages.take(HOLE_START, 4096).is_err());
    assert!(free_pages.take(HOLE_END, SIZE + 1).is_err());
}
