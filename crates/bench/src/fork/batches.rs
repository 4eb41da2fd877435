//! Splits an experiment into batches of parents that fit into the host's memory together.

use super::{ForkRow, Method};
use crate::error::BenchError;
use crate::guest::NANO;
use std::ops::Range;

/// How much of the memory that is available may be used, in percent: the rest is
/// for clones, page tables and other programs.
const USABLE_PERCENT: u64 = 75;

/// What measuring a cell takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    /// Its guest's memory, MiB: which cells belong together.
    pub(super) memory_mib: u64,
    /// Of the host's memory, MiB.
    pub(super) mib: u64,
    /// Of the pool's shells.
    pub(super) shells: u64,
}

impl Cost {
    /// What a row's parent, its ancestors, its clones and their shells take at most.
    pub(super) fn of(row: &ForkRow, most_shells: u64) -> Self {
        const PARENT_MIB: u64 = 16;
        // Of a clone, or a shell that waits for one: its process, and what KVM keeps of it.
        const PROCESS_MIB: u64 = 4;
        // Linux writes more than it was asked to.
        const LINUX_MIB: u64 = 32;
        let own_mib = match row.guest == NANO {
            true => PROCESS_MIB + (row.written_pages >> 8),
            false => PROCESS_MIB + LINUX_MIB,
        };
        // The pool keeps two for any VM, and twice what each VM has wanted at once.
        let shells = match row.strategy {
            Method::Image => 2 * (1 + u64::from(row.clones) + u64::from(row.depth)),
            Method::ProcessFork | Method::Boot | Method::Raw => 0,
        };
        let waiting = shells.min(most_shells);
        let processes = u64::from(row.clones) + u64::from(row.depth) + waiting;
        let parent_mib = PARENT_MIB + row.touched_mib.unwrap_or(row.memory_mib);
        Self {
            memory_mib: row.memory_mib,
            mib: parent_mib + processes * own_mib,
            shells,
        }
    }
}

/// Splits cells into as few batches as fit into memory and into the pool, which keeps at
/// most `most_shells` (0 for no pool). Cells of one memory size are kept together, so that
/// strategies are compared at the same time, unless that alone is too much. A cell that
/// needs more shells than there can be is measured alone.
///
/// # Errors
/// [`BenchError::Memory`] for a cell that does not fit at all.
pub(super) fn batches(
    cells: &[Cost],
    available_mib: u64,
    most_shells: u64,
) -> Result<Vec<Range<usize>>, BenchError> {
    let usable_mib = available_mib * USABLE_PERCENT / 100;
    let mut batches = Batches {
        usable_mib,
        most_shells: if most_shells == 0 {
            u64::MAX
        } else {
            most_shells
        },
        taken_mib: 0,
        taken_shells: 0,
        done: Vec::new(),
        open: 0..0,
    };
    for group in cells.chunk_by(|a, b| a.memory_mib == b.memory_mib) {
        let mib = group.iter().map(|cell| cell.mib).sum();
        let shells = group.iter().map(|cell| cell.shells).sum();
        if mib <= usable_mib && shells <= batches.most_shells {
            batches.add(group.len(), mib, shells);
            continue;
        }
        for &Cost { mib, shells, .. } in group {
            if mib > usable_mib {
                return Err(BenchError::Memory {
                    needed_mib: mib,
                    available_mib: usable_mib,
                });
            }
            batches.add(1, mib, shells);
        }
    }
    batches.close();
    Ok(batches.done)
}

struct Batches {
    usable_mib: u64,
    most_shells: u64,
    taken_mib: u64,
    taken_shells: u64,
    done: Vec<Range<usize>>,
    open: Range<usize>,
}

impl Batches {
    fn add(&mut self, cells: usize, mib: u64, shells: u64) {
        let no_memory = self.taken_mib + mib > self.usable_mib;
        if no_memory || (shells > 0 && self.taken_shells + shells > self.most_shells) {
            self.close();
        }
        self.open.end += cells;
        self.taken_mib += mib;
        self.taken_shells += shells;
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.done.push(self.open.clone());
        }
        self.open = self.open.end..self.open.end;
        (self.taken_mib, self.taken_shells) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::ForkPlan;
    use super::*;
    use crate::journal::Plan;

    #[test]
    fn sizes_share_a_batch_while_they_fit_and_only_a_size_that_is_too_much_is_split() {
        let sizes = [(64, 10), (64, 10), (128, 20), (128, 20)];
        let cells: Vec<_> = sizes
            .into_iter()
            .chain([(512, 50); 3])
            .map(|(memory_mib, mib)| Cost {
                memory_mib,
                mib,
                shells: 4,
            })
            .collect();
        let split = |available_mib| batches(&cells, available_mib, 128);
        assert_eq!(split(1000).unwrap(), vec![0..cells.len()]);
        // 150 usable: the big size does not go beside the others.
        assert_eq!(split(200).unwrap(), [0..4, 4..7]);
        // 105 usable: two of the big ones, then the last.
        assert_eq!(split(140).unwrap(), [0..4, 4..6, 6..7]);
        assert!(matches!(
            split(60),
            Err(BenchError::Memory { needed_mib: 50, .. })
        ));
        assert_eq!(batches(&[], 100, 128).unwrap(), []);
    }

    #[test]
    fn cells_whose_shells_the_pool_cannot_have_at_the_same_time_do_not_take_turns() {
        let cells = [4, 130, 0, 4, 4].map(|shells| Cost {
            memory_mib: 64,
            mib: 1,
            shells,
        });
        assert_eq!(batches(&cells, 1000, 128).unwrap(), [0..1, 1..3, 3..5]);
        assert_eq!(batches(&cells, 1000, 200).unwrap(), vec![0..5]);
        // Without a pool there is nothing to share.
        assert_eq!(batches(&cells, 1000, 0).unwrap(), vec![0..5]);
    }

    #[test]
    fn clones_and_ancestors_and_the_shells_for_them_need_room() {
        let plan = ForkPlan {
            guest: NANO.to_owned(),
            vcpus: 1,
            memory_mib: vec![64],
            touched_mib: None,
            dirty_pages: vec![0],
            strategies: vec![Method::Image, Method::ProcessFork],
            clones: vec![1, 64],
            depth: vec![0, 10],
            first: false,
            n: 1,
        };
        let costs: Vec<_> = plan.rows().iter().map(|row| Cost::of(row, 128)).collect();
        let shells: Vec<_> = costs.iter().map(|cost| cost.shells).collect();
        assert_eq!(shells, [4, 24, 130, 150, 0, 0, 0, 0]);
        assert!(costs[0].mib < costs[1].mib && costs[1].mib < costs[2].mib);
        assert!(costs[4].mib < costs[0].mib && costs[4].mib >= 16 + 62);
    }
}
