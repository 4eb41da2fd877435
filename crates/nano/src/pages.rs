//! The pages in memory.

use crate::fail;
use crate::work::{Work, answer, mix};
use core::ptr::{read_volatile, write_volatile};

/// The word at `address`.
pub(crate) fn read(address: u64) -> u64 {
    // SAFETY: `address` is a page of a `Work` that the machine has provided: RAM which
    // no Rust object lies in. Volatile, since a fork may come between any two accesses.
    unsafe { read_volatile(address as *const u64) }
}

/// Writes the word at `address`.
pub(crate) fn write(address: u64, word: u64) {
    // SAFETY: as in `read`.
    unsafe { write_volatile(address as *mut u64, word) }
}

/// Fails unless the word at `address` is `expected`.
pub(crate) fn expect(address: u64, expected: u64) -> u64 {
    let word = read(address);
    if word != expected {
        fail(format_args!(
            "{word:#x} at {address:#x}, where {expected:#x} was written"
        ));
    }
    word
}

/// Writes every page for the first time.
pub(crate) fn touch(work: &Work) {
    for (address, _) in work.all() {
        write(address, mix(address, 0));
    }
}

/// Writes the marks of `lineage`.
pub(crate) fn mark(work: &Work, lineage: u64) {
    for (address, _) in work.marked() {
        write(address, mix(address, lineage));
    }
}

/// Writes only `count` marks of `lineage`, after those of the turn before.
pub(crate) fn mark_in_turn(work: &Work, lineage: u64, count: u64, turn: u64) {
    for (address, _) in work.in_turn(count, turn) {
        write(address, mix(address, lineage));
    }
}

/// Fails unless the marks are those of `lineage`.
pub(crate) fn expect_marks(work: &Work, lineage: u64) {
    for (address, _) in work.marked() {
        expect(address, mix(address, lineage));
    }
}

/// What clone `index` answers, from what the pages hold: [`Work::answer`], or a
/// failure.
pub(crate) fn answer_from_memory(work: &Work, index: u32) -> u32 {
    let unmarked = work.all().filter(|(_, mark)| !mark);
    answer(
        index,
        unmarked.map(|(address, _)| expect(address, mix(address, 0))),
    )
}
