//! The pages a guest works on, and what it must find in them.

/// What a guest signals as `Done` when something is not as it must be. No right
/// answer is like it.
pub const BAD: u32 = 0xbad;

/// Physical address of the first page.
const FIRST_PAGE: u64 = 2 << 20;
/// Guest RAM goes around the hole for devices.
const HOLE_START: u64 = 3 << 30;
const HOLE_SIZE: u64 = 1 << 30;

const PAGE: u64 = 4096;

/// Set in every right answer; not in [`BAD`].
const ANSWER: u32 = 1 << 23;
const ANSWER_BITS: u32 = ANSWER - 1;

/// A set of pages. Each holds one word, which depends on its address; some, the
/// marks, a word that depends also on the lineage of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// How many pages.
    pub pages: u64,
    /// How many of them are marks, spread evenly.
    pub marks: u64,
}

impl Work {
    /// The number of marks is limited by that of pages.
    pub const fn new(pages: u64, marks: u64) -> Self {
        let marks = if marks < pages { marks } else { pages };
        Self { pages, marks }
    }

    /// First address above all of them.
    pub const fn end(&self) -> u64 {
        match self.pages {
            0 => FIRST_PAGE,
            pages => address(pages - 1) + PAGE,
        }
    }

    /// All pages' addresses, each with whether it is a mark.
    pub fn all(&self) -> impl Iterator<Item = (u64, bool)> + use<> {
        let Self { pages, marks } = *self;
        (0..pages).map(move |n| (address(n), n % (pages / marks.max(1)) == 0 && marks > 0))
    }

    /// Those that are marks.
    pub(crate) fn marked(&self) -> impl Iterator<Item = (u64, bool)> + use<> {
        self.all().filter(|(_, mark)| *mark)
    }

    /// `count` marks after those of the turn before, or all if there are no more.
    pub(crate) fn in_turn(
        &self,
        count: u64,
        turn: u64,
    ) -> impl Iterator<Item = (u64, bool)> + use<> {
        let marks = self.marked().count() as u64;
        let first = count.wrapping_mul(turn) % marks.max(1);
        let place = move |n: u64| (n + marks - first) % marks.max(1);
        let numbered = (0..).zip(self.marked());
        numbered.filter_map(move |(n, page)| (place(n) < count).then_some(page))
    }

    /// What clone `index` answers: a checksum over all pages but the marks, and
    /// itself. 24 bits, never [`BAD`].
    pub fn answer(&self, index: u32) -> u32 {
        let words = self.all().filter(|(_, mark)| !mark);
        answer(index, words.map(|(address, _)| pattern(address)))
    }
}

/// What clone `index` answers when it only has to say that all is well.
pub fn report(index: u32) -> u32 {
    answer(index, core::iter::empty())
}

pub(crate) fn answer(index: u32, words: impl Iterator<Item = u64>) -> u32 {
    let sum = words.fold(0u64, |sum, word| sum.rotate_left(5).wrapping_add(word));
    descend(sum, index) as u32 & ANSWER_BITS | ANSWER
}

/// The lineage of clone number `index` of a machine with this `lineage`.
pub(crate) fn descend(lineage: u64, index: u32) -> u64 {
    mix(lineage, u64::from(index) + 1)
}

/// The word in the page at `address`.
pub(crate) const fn pattern(address: u64) -> u64 {
    mix(address, 0)
}

const fn address(n: u64) -> u64 {
    let address = FIRST_PAGE + n * PAGE;
    if address < HOLE_START {
        address
    } else {
        address + HOLE_SIZE
    }
}

/// Scrambles two words into one (the finish of SplitMix64).
pub(crate) const fn mix(a: u64, b: u64) -> u64 {
    let mut z = a ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_clone_and_every_amount_of_memory_has_its_own_answer() {
        let mut answers = HashSet::new();
        for pages in [16, 256, 4096] {
            for index in 0..64 {
                answers.insert(Work::new(pages, 4).answer(index));
            }
        }
        assert!(answers.len() > 3 * 64 - 2, "{}", answers.len());
        assert!(
            answers
                .iter()
                .all(|answer| *answer != BAD && answer >> 24 == 0)
        );
    }

    #[test]
    fn there_are_as_many_marks_as_asked_for_or_a_few_more() {
        for (pages, marks) in [(0, 0), (0, 9), (256, 0), (256, 16), (256, 100), (5, 9)] {
            let work = Work::new(pages, marks);
            let found = work.all().filter(|(_, mark)| *mark).count() as u64;
            assert!(
                (work.marks..=work.marks * 2).contains(&found),
                "{work:?}: {found}"
            );
            assert_eq!(work.all().count() as u64, pages);
        }
    }

    #[test]
    fn marks_that_take_turns_all_have_theirs() {
        let work = Work::new(256, 16);
        let turn = |turn| work.in_turn(6, turn).collect::<HashSet<_>>();
        assert!((0..9).all(|n| turn(n).len() == 6));
        assert!(turn(0).is_disjoint(&turn(1)));
        let all: HashSet<_> = (0..3).flat_map(turn).collect();
        assert_eq!(all, work.marked().collect());
        assert_eq!(work.in_turn(99, 3).count(), work.marked().count());
        assert_eq!(Work::new(0, 0).in_turn(1, 1).count(), 0);
    }

    #[test]
    fn pages_go_around_the_hole_below_4_gib() {
        let work = Work::new(1 << 20, 0);
        assert!(
            !work
                .all()
                .any(|(address, _)| (3 << 30..4 << 30).contains(&address))
        );
        assert_eq!(work.end(), (5 << 30) + FIRST_PAGE);
    }
}
