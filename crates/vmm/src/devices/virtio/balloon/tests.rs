use super::*;
use crate::devices::virtio::testing::{Driver, NEEDS_RESET, STATUS};
use crate::memory::Ram;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

const WRITE: u16 = 2;
const NEXT: u16 = 1;
const MEMORY: u64 = 8 << 20;
/// Three pages with something in them.
const PAGES: u64 = 0x20_0000;

/// A driver in a machine that was booted.
struct Machine {
    driver: Driver,
    _ram: Ram,
}

fn started() -> Machine {
    let mut ram = Ram::reserve(MEMORY).unwrap();
    ram.back_with_zeroes().unwrap();
    let balloon = Balloon::new(ram.free_pages().clone());
    let driver = Driver::start_in(ram.memory().clone(), balloon);
    let bytes = [7; 0x3000];
    let written = driver.memory.write_slice(&bytes, GuestAddress(PAGES));
    written.unwrap();
    Machine { driver, _ram: ram }
}

impl Machine {
    /// What the three pages begin with.
    fn pages(&self) -> [u8; 3] {
        [0, 1, 2].map(|page| {
            let address = GuestAddress(PAGES + page * 0x1000);
            self.driver.memory.read_obj(address).unwrap()
        })
    }

    fn offer(&mut self, ring: usize, slot: u16, address: u64, len: u32, flags: u16) {
        let driver = &mut self.driver;
        driver.write_descriptor(ring, slot, address, len, flags, 0);
        driver.offer_head(ring, slot);
    }

    fn report(&mut self, address: u64, len: u32, flags: u16) {
        self.offer(REPORTING, 0, address, len, flags);
        self.driver.lock().process_queue(REPORTING);
    }

    fn has_failed(&self) -> bool {
        self.driver.read(STATUS) & NEEDS_RESET != 0
    }
}

#[test]
fn pages_that_are_reported_as_free_are_taken_and_no_others() {
    let mut machine = started();
    machine.report(PAGES + 0x1000, 0x1000, WRITE);
    assert_eq!(machine.driver.take_used(REPORTING), Some((0, 0)));
    assert_eq!(machine.pages(), [7, 0, 7]);
    // Only whole ones.
    machine.report(PAGES + 1, 0x2fff, WRITE);
    assert_eq!(machine.driver.take_used(REPORTING), Some((0, 0)));
    assert_eq!(machine.pages(), [7, 0, 0]);
    for (address, len) in [(PAGES + 1, 0x1ffe), (PAGES, 0xfff), (PAGES + 0xfff, 1)] {
        machine.report(address, len, WRITE);
        assert_eq!(machine.driver.take_used(REPORTING), Some((0, 0)));
    }
    assert_eq!(machine.pages(), [7, 0, 0]);
    assert!(!machine.has_failed());
}

#[test]
fn a_balloon_that_is_inflated_unasked_takes_nothing() {
    let mut machine = started();
    for ring in [0, 1] {
        let first_page = (PAGES >> 12) as u32;
        let request = [&first_page.to_le_bytes()[..]];
        let (used, _) = machine.driver.request(ring, &request, &[]);
        assert_eq!(used, 0);
    }
    assert_eq!(machine.pages(), [7, 7, 7]);
}

#[test]
fn pages_that_do_not_exist_or_may_not_be_written_end_the_driver() {
    for (address, len, flags) in [
        (PAGES, 0x1000, 0),
        (MEMORY, 0x1000, WRITE),
        (MEMORY - 0x1000, 0x2000, WRITE),
        (3 << 30, 0x1000, WRITE),
        (u64::MAX - 0xfff, 0x1000, WRITE),
        (PAGES, u32::MAX, WRITE),
    ] {
        let mut machine = started();
        machine.report(address, len, flags);
        assert!(machine.has_failed(), "{address:#x}, {len:#x}");
        assert_eq!(machine.driver.take_used(REPORTING), None);
        assert_eq!(machine.pages(), [7; 3]);
    }
}

#[test]
fn a_driver_that_reports_without_end_has_one_report_served_at_a_time() {
    let mut machine = started();
    for page in 0..3 {
        let address = PAGES + 0x1000 * u64::from(page);
        machine.offer(REPORTING, page, address, 0x1000, WRITE);
    }
    for (page, left) in [(0, [0, 7, 7]), (1, [0, 0, 7]), (2, [0, 0, 0])] {
        // The transport calls again by itself.
        machine.driver.lock().take_queue_event(REPORTING);
        machine.driver.lock().process_queue(REPORTING);
        assert_eq!(machine.pages(), left);
        assert_eq!(machine.driver.take_used(REPORTING), Some((page, 0)));
        let is_called = machine.driver.lock().queue_event(REPORTING).read().is_ok();
        assert_eq!(is_called, page < 2);
    }
}

#[test]
fn of_a_report_with_very_many_runs_only_the_first_are_taken() {
    let mut machine = started();
    // A table of descriptors of which all but the last are of a page without contents.
    let table = 0x30_0000;
    let count = RUNS_MAX as u64 + 1;
    for index in 0..count {
        let last = index + 1 == count;
        let address = if last { PAGES } else { 0x40_0000 };
        let flags = if last { WRITE } else { WRITE | NEXT };
        let next = u64::from(flags) << 32 | (index + 1) << 48;
        let memory = &machine.driver.memory;
        let at = table + 16 * index;
        memory.write_obj(address, GuestAddress(at)).unwrap();
        memory
            .write_obj(0x1000 | next, GuestAddress(at + 8))
            .unwrap();
    }
    const INDIRECT: u16 = 4;
    machine.report(table, 16 * count as u32, INDIRECT);
    assert_eq!(machine.driver.take_used(REPORTING), Some((0, 0)));
    assert_eq!(machine.pages(), [7; 3]);
    assert!(!machine.has_failed());
}

proptest! {
    #[test]
    fn a_hostile_driver_gets_nowhere(
            is_clone: bool,
            script in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
        drive_hostile(is_clone, &script);
    }
}
