//! Which parents can be there at the same time.

use crate::error::BenchError;
use std::ops::Range;

/// How much of the memory that is available may be used, in percent: the rest is
/// for clones, page tables and everybody else.
const USABLE_PERCENT: u64 = 75;

/// Splits cells into as few batches as fit into memory. Cells of one memory size are
/// kept together, so that strategies are compared at the same time, unless that
/// alone is too much. Each cell is its memory size and what it takes, MiB.
///
/// # Errors
/// [`BenchError::Memory`] for a cell that does not fit at all.
pub(super) fn batches(
    cells: &[(u64, u64)],
    available_mib: u64,
) -> Result<Vec<Range<usize>>, BenchError> {
    let usable = available_mib * USABLE_PERCENT / 100;
    let mut batches = Batches {
        usable,
        taken: 0,
        done: Vec::new(),
        open: 0..0,
    };
    for group in cells.chunk_by(|a, b| a.0 == b.0) {
        let cost = group.iter().map(|(_, cost)| cost).sum();
        if cost <= usable {
            batches.add(group.len(), cost);
            continue;
        }
        for &(_, cost) in group {
            if cost > usable {
                return Err(BenchError::Memory {
                    needed_mib: cost,
                    available_mib: usable,
                });
            }
            batches.add(1, cost);
        }
    }
    batches.close();
    Ok(batches.done)
}

struct Batches {
    usable: u64,
    taken: u64,
    done: Vec<Range<usize>>,
    open: Range<usize>,
}

impl Batches {
    fn add(&mut self, cells: usize, cost: u64) {
        if self.taken + cost > self.usable {
            self.close();
        }
        self.open.end += cells;
        self.taken += cost;
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.done.push(self.open.clone());
        }
        self.open = self.open.end..self.open.end;
        self.taken = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_share_a_batch_while_they_fit_and_only_a_size_that_is_too_much_is_split() {
        let cells = [
            (64, 10),
            (64, 10),
            (128, 20),
            (128, 20),
            (512, 50),
            (512, 50),
            (512, 50),
        ];
        assert_eq!(batches(&cells, 1000).unwrap(), vec![0..cells.len()]);
        // 150 usable: the big size does not go beside the others.
        assert_eq!(batches(&cells, 200).unwrap(), [0..4, 4..7]);
        // 105 usable: two of the big ones, then the last.
        assert_eq!(batches(&cells, 140).unwrap(), [0..4, 4..6, 6..7]);
        assert!(matches!(
            batches(&cells, 60),
            Err(BenchError::Memory { needed_mib: 50, .. })
        ));
        assert_eq!(batches(&[], 100).unwrap(), []);
    }
}
