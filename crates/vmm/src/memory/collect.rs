//! Copies a machine's private pages while it is at rest, on several threads.

use super::arena::{Arena, Spare};
use super::at_rest::AtRest;
use super::layers::Layers;
use super::ranges;
use crate::sys::hands::Helpers;
use crate::sys::mapping::AddressRange;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// What was copied.
pub(super) struct Collected {
    pub(super) layers: Layers,
    /// The arenas that hold the copies.
    pub(super) arenas: Vec<Arena>,
}

/// Helpers search RAM in this many parts, of at least this many bytes each.
const PARTS: usize = 16;
const LEAST: usize = 2 << 20;

/// What was found in one part of RAM.
struct Found {
    part: usize,
    ranges: Vec<Range<usize>>,
    /// The offset of the copies in the arena, if it had room for them.
    place: Option<usize>,
}

/// Copies the ranges that `find` returns for the parts of `ram`, alone or with helpers.
///
/// # Errors
/// Those of `find`; when the host is out of memory, or the copies cannot be sealed.
pub(super) fn collect(
    ram: &AddressRange,
    find: impl Fn(Range<usize>) -> io::Result<Vec<Range<usize>>> + Sync,
    spare: &Spare,
    helpers: Option<&dyn Helpers>,
    at_rest: &AtRest,
) -> io::Result<Collected> {
    let arena = spare.take();
    let len = match helpers {
        Some(_) => ram.len().div_ceil(PARTS).max(LEAST),
        None => ram.len(),
    };
    let (next, all_found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let do_next_part = || {
        let part = next.fetch_add(1, Ordering::Relaxed);
        let begin = part.saturating_mul(len);
        if begin >= ram.len() {
            return false;
        }
        let found = find(begin..ram.len().min(begin + len)).map(|ranges| Found {
            part,
            place: arena
                .as_ref()
                .and_then(|arena| arena.append(ram, &ranges, at_rest)),
            ranges,
        });
        let mut all_found = all_found.lock().unwrap_or_else(PoisonError::into_inner);
        all_found.push(found);
        true
    };
    let do_all_parts = || while do_next_part() {};
    match helpers {
        Some(helpers) => helpers.run(&do_all_parts),
        None => do_all_parts(),
    }
    let all_found = all_found
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let mut all_found = all_found.into_iter().collect::<io::Result<Vec<_>>>()?;
    all_found.sort_by_key(|found| found.part);
    put_together(all_found, arena, ram, spare, at_rest)
}

fn put_together(
    all_found: Vec<Found>,
    arena: Option<Arena>,
    ram: &AddressRange,
    spare: &Spare,
    at_rest: &AtRest,
) -> io::Result<Collected> {
    let mut collected = Collected {
        layers: Layers::default(),
        arenas: Vec::new(),
    };
    let (mut placed, mut left) = (Vec::new(), Vec::new());
    for Found { ranges, place, .. } in all_found {
        match place {
            Some(place) => placed.push((ranges, place)),
            None => left.extend(ranges),
        }
    }
    match arena {
        Some(arena) if arena.is_used() => {
            collected.layers = Layers::of_parts(placed, arena.freeze()?);
            collected.arenas.push(arena);
        }
        Some(arena) => spare.put_back(arena),
        None => {}
    }
    if !left.is_empty() {
        let arena = Arena::new(ranges::len(&left))?;
        let place = arena.append(ram, &left, at_rest);
        let place = place.expect("the arena was made for them");
        let layers = Layers::of_parts(vec![(left, place)], arena.freeze()?);
        collected.layers.put(layers);
        collected.arenas.push(arena);
    }
    Ok(collected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::hands::{LastHelp, NoHelpers, WorkShare};
    use crate::sys::mapping::Mapping;
    use crate::sys::memfd;
    use proptest::prelude::*;
    use std::thread;
    use std::time::Duration;

    const PAGE: usize = 4096;
    const PAGES: usize = 4 * LEAST / PAGE;

    /// Two threads that do nothing but help.
    struct Crew<'a>(&'a WorkShare);

    impl Helpers for Crew<'_> {
        fn run(&self, work: &(dyn Fn() + Sync)) {
            // The parts are small: without it helpers would come too late.
            let come = || thread::sleep(Duration::from_millis(1));
            self.0.run(work, come);
        }
    }

    fn with_crew(test: impl FnOnce(&dyn Helpers)) {
        let (share, over) = (
            WorkShare::default(),
            std::sync::atomic::AtomicBool::new(false),
        );
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut last = LastHelp::default();
                    while !over.load(Ordering::Relaxed) {
                        share.help(&mut last);
                        thread::yield_now();
                    }
                });
            }
            test(&Crew(&share));
            over.store(true, Ordering::Relaxed);
        });
    }

    /// What is read back from where it was copied, page by page.
    fn contents(layers: &Layers, ram_len: usize) -> Vec<(usize, u8)> {
        let mut copy = Mapping::reserve(ram_len).unwrap();
        copy.place_private(memfd::create("test", ram_len as u64).unwrap())
            .unwrap();
        layers.read_into(&copy, &NoHelpers).unwrap();
        let pages = layers
            .ranges()
            .into_iter()
            .flat_map(|range| range.step_by(PAGE));
        pages
            .map(|at| (at / PAGE, copy.bytes(at..at + PAGE)[9]))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn all_pages_are_in_the_copy_and_no_other_wherever_there_is_room(
            pages in prop::collection::btree_map(0..PAGES, any::<u8>(), 0..300),
            room in prop::option::of(1usize..400),
        ) {
            let file = memfd::create("test", (PAGES * PAGE) as u64).unwrap();
            let mut ram = Mapping::reserve(PAGES * PAGE).unwrap();
            ram.place_private(&file).unwrap();
            for (&page, &byte) in &pages {
                // SAFETY: inside the mapping, which only this test uses.
                unsafe { ram.base().add(page * PAGE + 9).write_volatile(byte) };
            }
            let find = |part: Range<usize>| {
                // So that there is something left for the others.
                thread::sleep(Duration::from_micros(100));
                let pages = pages.keys().map(|page| page * PAGE..(page + 1) * PAGE);
                Ok(pages.filter(|range| part.contains(&range.start)).collect())
            };
            let spare = Spare::default();
            if let Some(room) = room {
                spare.put_back(Arena::new(room * PAGE).unwrap());
            }
            let expected: Vec<_> = pages.iter().map(|(&page, &byte)| (page, byte)).collect();
            // SAFETY: nothing writes it any more.
            let at_rest = unsafe { AtRest::new() };
            with_crew(|crew| {
                for helpers in [Some(crew), Some(&NoHelpers), None] {
                    let collected = collect(&ram, find, &spare, helpers, &at_rest).unwrap();
                    assert_eq!(contents(&collected.layers, ram.len()), expected);
                    assert!(collected.layers.depth() <= 2);
                    for arena in collected.arenas {
                        arena.complete().unwrap();
                    }
                }
            });
        }
    }

    #[test]
    fn an_arena_that_nothing_was_copied_to_is_kept_for_the_next_time() {
        let mut ram = Mapping::reserve(LEAST).unwrap();
        ram.place_private(memfd::create("test", LEAST as u64).unwrap())
            .unwrap();
        let spare = Spare::default();
        spare.put_back(Arena::new(PAGE).unwrap());
        // SAFETY: nothing writes it.
        let at_rest = unsafe { AtRest::new() };
        let collected = collect(&ram, |_| Ok(Vec::new()), &spare, None, &at_rest).unwrap();
        assert!(collected.arenas.is_empty());
        assert!(spare.take().is_some());
    }
}
