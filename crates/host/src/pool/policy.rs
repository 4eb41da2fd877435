//! How many shells of each kind to keep in stock: a pure policy. Time is an argument.

use hyperfork_state::Shape;
use std::collections::HashMap;
use std::time::Duration;

/// A client's connection, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Client(pub(super) u64);

/// A kind of shells, which can replace each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PoolKey {
    pub(super) shape: Shape,
    /// The client for whose clones they have preloaded memory, if any.
    pub(super) family: Option<Client>,
}

/// The demand for shells of one kind.
#[derive(Debug, Default)]
struct Demand {
    /// Clients that may need some.
    registered: usize,
    /// The largest number that was needed at once lately.
    wanted: usize,
    /// When that was.
    at: Duration,
}

/// The demand for shells of all kinds.
#[derive(Debug)]
pub(super) struct Policy {
    most: usize,
    keys: HashMap<PoolKey, Demand>,
}

/// Least number of shells for each shape of a connected VM, which may be forked one day.
const FOR_ANY: usize = 2;
/// Least number of shells for a VM that was forked once and may be forked again.
const FOR_A_FAMILY: usize = 1;
/// Least time after a fork before shells are built or preload: the next fork may follow.
pub(super) const LEAST_QUIET: Duration = Duration::from_millis(30);
/// The time after which demand counts half.
const HALF_LIFE: Duration = Duration::from_secs(30);

impl PoolKey {
    /// Shells of a shape that have preloaded nothing.
    pub(super) fn any(shape: &Shape) -> Self {
        let shape = shape.clone();
        Self {
            shape,
            family: None,
        }
    }

    /// Shells of a shape for clones of one client's VM.
    pub(super) fn of(client: Client, shape: &Shape) -> Self {
        Self {
            family: Some(client),
            ..Self::any(shape)
        }
    }
}

impl Policy {
    /// A policy that never keeps more than `most` shells in all.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            keys: HashMap::new(),
        }
    }

    /// A client has connected that may need shells of this shape.
    pub(super) fn register(&mut self, shape: &Shape) {
        self.demand(PoolKey::any(shape)).registered += 1;
    }

    /// The client has disconnected.
    pub(super) fn unregister(&mut self, shape: &Shape, client: Client) {
        let demand = self.demand(PoolKey::any(shape));
        demand.registered = demand.registered.saturating_sub(1);
        self.keys.remove(&PoolKey::of(client, shape));
    }

    /// So many shells were needed at once, with nothing preloaded.
    pub(super) fn wanted(&mut self, shape: &Shape, count: usize, now: Duration) {
        self.demand(PoolKey::any(shape)).wanted(count, now);
    }

    /// So many shells were needed at once for clones of one client's VM.
    pub(super) fn forked(&mut self, shape: &Shape, client: Client, count: usize, now: Duration) {
        let demand = self.demand(PoolKey::of(client, shape));
        demand.registered = 1;
        demand.wanted(count, now);
    }

    /// How many shells of each kind should be in stock.
    pub(super) fn targets(&self, now: Duration) -> Vec<(PoolKey, usize)> {
        let mut left = self.most;
        let mut targets: Vec<_> = self
            .keys
            .iter()
            .map(|(key, demand)| (key, demand.at, demand.target(key, now)))
            .collect();
        // The latest demand is met first when the limit does not suffice for all.
        targets.sort_by_key(|&(_, at, _)| std::cmp::Reverse(at));
        targets
            .into_iter()
            .map(|(key, _, target)| {
                let target = target.min(left);
                left -= target;
                (key.clone(), target)
            })
            .collect()
    }

    fn demand(&mut self, key: PoolKey) -> &mut Demand {
        self.keys.entry(key).or_default()
    }
}

impl Demand {
    fn wanted(&mut self, count: usize, now: Duration) {
        self.wanted = self.wanted_at(now).max(count);
        self.at = now;
    }

    fn wanted_at(&self, now: Duration) -> usize {
        let halvings = now.saturating_sub(self.at).as_secs() / HALF_LIFE.as_secs();
        self.wanted.checked_shr(halvings as u32).unwrap_or(0)
    }

    /// Twice the demand: the next fork may come before the stock is full again.
    fn target(&self, key: &PoolKey, now: Duration) -> usize {
        let least = match key.family {
            None => FOR_ANY,
            Some(_) => FOR_A_FAMILY,
        };
        match self.registered {
            0 => 0,
            _ => least.max(2 * self.wanted_at(now)),
        }
    }
}

/// How long to wait at most after a fork that took so many shells before refilling the stock:
/// building shells takes the processors from the new clones. Usually these are ready sooner, and
/// their parent's preload request ends the wait.
pub(super) fn quiet_after(taken: usize) -> Duration {
    const LONGEST: Duration = Duration::from_millis(120);
    const EACH: Duration = Duration::from_millis(2);
    LONGEST + EACH * taken as u32
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
            net: None,
            shares: false,
            rings: Vec::new(),
        }
    }

    fn target(policy: &Policy, key: &PoolKey, seconds: u64) -> usize {
        let targets = policy.targets(Duration::from_secs(seconds));
        let found = targets.iter().find(|(of, _)| of == key);
        found.map_or(0, |&(_, target)| target)
    }

    #[test]
    fn the_stock_follows_demand_up_at_once_and_down_slowly() {
        let mut policy = Policy::new(100);
        let one = shape(1);
        let key = PoolKey::any(&one);
        assert_eq!(target(&policy, &key, 0), 0);
        policy.register(&one);
        assert_eq!(target(&policy, &key, 0), 2);
        policy.wanted(&one, 8, Duration::from_secs(1));
        assert_eq!(target(&policy, &key, 2), 16);
        assert_eq!(target(&policy, &key, 32), 8);
        assert_eq!(target(&policy, &key, 1000), 2);
    }

    #[test]
    fn a_vm_that_was_forked_has_shells_of_its_own_until_it_is_gone() {
        let mut policy = Policy::new(100);
        let (one, client) = (shape(1), Client(7));
        let own = PoolKey::of(client, &one);
        policy.register(&one);
        assert_eq!(target(&policy, &own, 0), 0);
        policy.forked(&one, client, 3, Duration::from_secs(1));
        assert_eq!(target(&policy, &own, 2), 6);
        assert_eq!(target(&policy, &PoolKey::any(&one), 2), 2);
        assert_eq!(target(&policy, &own, 1000), 1);
        policy.unregister(&one, client);
        assert_eq!(target(&policy, &own, 1000), 0);
    }

    #[test]
    fn shells_that_no_client_can_want_any_more_are_not_kept() {
        let mut policy = Policy::new(100);
        let one = shape(1);
        policy.register(&one);
        policy.wanted(&one, 8, Duration::ZERO);
        policy.unregister(&one, Client(0));
        assert_eq!(target(&policy, &PoolKey::any(&one), 0), 0);
    }

    proptest! {
        #[test]
        fn there_are_never_more_than_allowed_in_all(
            most in 0usize..50,
            wants in prop::collection::vec((1u8..5, 0u64..3, 0usize..100, 0u64..200), 0..20),
        ) {
            let mut policy = Policy::new(most);
            for &(cpus, client, count, at) in &wants {
                let at = Duration::from_secs(at);
                policy.register(&shape(cpus));
                policy.wanted(&shape(cpus), count, at);
                policy.forked(&shape(cpus), Client(client), count, at);
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
