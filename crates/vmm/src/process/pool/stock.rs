//! How many shells to keep: a pure policy. Time is an argument.

use crate::snapshot::Shape;
use std::collections::HashMap;
use std::time::Duration;

/// What was wanted of one shape, and how much of it to keep in stock.
#[derive(Debug, Default)]
pub(super) struct Demand {
    /// Connections that may want some.
    interested: usize,
    /// The most that was wanted lately.
    wanted: usize,
    /// When that was.
    at: Duration,
}

/// All shapes' demand.
#[derive(Debug)]
pub(super) struct Policy {
    most: usize,
    shapes: HashMap<Shape, Demand>,
}

/// Kept for whoever may fork one day.
const ALWAYS: usize = 2;
/// Demand is forgotten by half after each such time.
const MEMORY: Duration = Duration::from_secs(30);
/// A fork is left alone this long before the stock is filled up again: building takes
/// what processors the new clones need. Unless nothing is left.
pub(super) const QUIET: Duration = Duration::from_millis(30);

impl Policy {
    /// Never more than `most` in all.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            shapes: HashMap::new(),
        }
    }

    /// Somebody may want shells of this shape.
    pub(super) fn interest(&mut self, shape: &Shape) {
        self.demand(shape).interested += 1;
    }

    /// And does no more.
    pub(super) fn disinterest(&mut self, shape: &Shape) {
        let demand = self.demand(shape);
        demand.interested = demand.interested.saturating_sub(1);
    }

    /// So many were wanted at once.
    pub(super) fn wanted(&mut self, shape: &Shape, count: usize, now: Duration) {
        let demand = self.demand(shape);
        demand.wanted = demand.wanted_at(now).max(count);
        demand.at = now;
    }

    /// How many shells of each shape should be in stock.
    pub(super) fn targets(&self, now: Duration) -> Vec<(Shape, usize)> {
        let mut left = self.most;
        let mut targets: Vec<_> = self
            .shapes
            .iter()
            .map(|(shape, demand)| (shape, demand.at, demand.target(now)))
            .collect();
        // What was wanted last comes first when there is not enough for all.
        targets.sort_by_key(|&(_, at, _)| std::cmp::Reverse(at));
        targets
            .into_iter()
            .map(|(shape, _, target)| {
                let target = target.min(left);
                left -= target;
                (shape.clone(), target)
            })
            .collect()
    }

    fn demand(&mut self, shape: &Shape) -> &mut Demand {
        self.shapes.entry(shape.clone()).or_default()
    }
}

impl Demand {
    fn wanted_at(&self, now: Duration) -> usize {
        let halvings = now.saturating_sub(self.at).as_secs() / MEMORY.as_secs();
        self.wanted.checked_shr(halvings as u32).unwrap_or(0)
    }

    /// Twice what was wanted, for the next one may come before the stock is full again.
    fn target(&self, now: Duration) -> usize {
        match self.interested {
            0 => 0,
            _ => ALWAYS.max(2 * self.wanted_at(now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyperfork_api::Bytes;
    use proptest::prelude::*;

    fn shape(cpus: u8) -> Shape {
        Shape {
            cpus,
            memory: Bytes::mib(64),
            rings: Vec::new(),
        }
    }

    fn target(policy: &Policy, shape: &Shape, seconds: u64) -> usize {
        let targets = policy.targets(Duration::from_secs(seconds));
        let found = targets.iter().find(|(of, _)| of == shape);
        found.map_or(0, |&(_, target)| target)
    }

    #[test]
    fn the_stock_follows_demand_up_at_once_and_down_slowly() {
        let mut policy = Policy::new(100);
        let one = shape(1);
        assert_eq!(target(&policy, &one, 0), 0);
        policy.interest(&one);
        assert_eq!(target(&policy, &one, 0), 2);
        policy.wanted(&one, 8, Duration::from_secs(1));
        assert_eq!(target(&policy, &one, 2), 16);
        assert_eq!(target(&policy, &one, 32), 8);
        assert_eq!(target(&policy, &one, 1000), 2);
    }

    #[test]
    fn what_nobody_can_want_any_more_is_not_kept() {
        let mut policy = Policy::new(100);
        let one = shape(1);
        policy.interest(&one);
        policy.wanted(&one, 8, Duration::ZERO);
        policy.disinterest(&one);
        assert_eq!(target(&policy, &one, 0), 0);
    }

    proptest! {
        #[test]
        fn there_are_never_more_than_allowed_in_all(
            most in 0usize..50,
            wants in prop::collection::vec((1u8..5, 0usize..100, 0u64..200), 0..20),
        ) {
            let mut policy = Policy::new(most);
            for &(cpus, count, at) in &wants {
                policy.interest(&shape(cpus));
                policy.wanted(&shape(cpus), count, Duration::from_secs(at));
            }
            let all: usize = policy
                .targets(Duration::from_secs(200))
                .iter()
                .map(|&(_, target)| target)
                .sum();
            prop_assert!(all <= most);
        }
    }
}
