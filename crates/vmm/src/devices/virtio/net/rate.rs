//! Rate limits, as token buckets. Time is an argument.

use std::time::Duration;

/// A bucket that fills at a steady rate up to what fits, and from which bytes are paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bucket {
    /// Bytes a second.
    rate: u64,
    /// Most bytes in it.
    capacity: u64,
    /// Bytes in it; below zero after a frame that it had not enough for.
    level: i128,
    /// When it was looked at last.
    then: Duration,
}

impl Bucket {
    /// A full one for `rate` bytes a second, which holds what comes in a tenth of one,
    /// or the largest frame.
    pub(super) fn new(rate: u64, largest: u64, now: Duration) -> Self {
        let rate = rate.max(1);
        let capacity = (rate / 10).max(largest);
        Self {
            rate,
            capacity,
            level: capacity.into(),
            then: now,
        }
    }

    /// How long nothing may be sent yet.
    pub(super) fn wait(&mut self, now: Duration) -> Duration {
        self.fill(now);
        match u128::try_from(-self.level) {
            // More than nothing in it is enough for a frame of any size: the rest is owed.
            Ok(owed) => {
                let nanos = (owed + 1) * NANOS / u128::from(self.rate) + 1;
                Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            }
            Err(_) => Duration::ZERO,
        }
    }

    /// Takes bytes out that were sent.
    pub(super) fn take_tokens(&mut self, bytes: usize) {
        self.level -= bytes as i128;
    }

    fn fill(&mut self, now: Duration) {
        // A clock that went back gives nothing, and what it gave stays.
        let since = now.saturating_sub(self.then);
        let new = since.as_nanos() * u128::from(self.rate) / NANOS;
        if new > 0 {
            let new = i128::try_from(new).unwrap_or(i128::MAX);
            self.level = self.level.saturating_add(new).min(self.capacity.into());
            // Parts of a byte are not lost: they count next time.
            let used = new.unsigned_abs() * NANOS / u128::from(self.rate);
            self.then += Duration::from_nanos(u64::try_from(used).unwrap_or(u64::MAX));
        }
    }
}

/// What may pass one way: as much as a bucket allows, or everything.
#[derive(Debug)]
pub(super) struct Limit(Option<Bucket>);

impl Limit {
    /// One of so many bytes a second, if any, for frames up to `largest` bytes.
    pub(super) fn new(rate: Option<u64>, largest: u64, now: Duration) -> Self {
        Self(rate.map(|rate| Bucket::new(rate, largest, now)))
    }

    /// How long nothing may pass; `None` when something may now.
    pub(super) fn wait(&mut self, now: Duration) -> Option<Duration> {
        let wait = self.0.as_mut()?.wait(now);
        (!wait.is_zero()).then_some(wait)
    }

    /// Counts bytes that have passed.
    pub(super) fn take_tokens(&mut self, bytes: usize) {
        if let Some(bucket) = &mut self.0 {
            bucket.take_tokens(bytes);
        }
    }
}

const NANOS: u128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However frames come, no more gets through than the rate and one full bucket
        /// allow, give or take one frame; and who waits as told may send.
        #[test]
        fn no_more_gets_through_than_the_rate_allows(
            rate in 1u64..10_000_000_000,
            steps in prop::collection::vec((0u64..50_000_000, 1usize..70_000), 1..300),
        ) {
            let largest = 70_000;
            let mut now = Duration::from_secs(1);
            let mut bucket = Bucket::new(rate, largest, now);
            let begun = now;
            let mut sent = 0u128;
            for (nanos, bytes) in steps {
                now += Duration::from_nanos(nanos);
                let wait = bucket.wait(now);
                if wait > Duration::from_secs(3600) {
                    break;
                }
                now += wait;
                prop_assert_eq!(bucket.wait(now), Duration::ZERO);
                bucket.take_tokens(bytes);
                sent += bytes as u128;
                let since = (now - begun).as_nanos() * u128::from(rate) / NANOS;
                let allowed = since + u128::from((rate / 10).max(largest)) + u128::from(largest);
                prop_assert!(sent <= allowed, "{sent} of {allowed}");
            }
        }

        /// A sender that always has something gets its rate, not less.
        #[test]
        fn a_busy_sender_gets_its_rate(rate in 100_000u64..10_000_000_000, bytes in 100usize..65_000) {
            let mut now = Duration::ZERO;
            let mut bucket = Bucket::new(rate, 65_000, now);
            let mut sent = 0u128;
            for _ in 0..200 {
                now += bucket.wait(now);
                bucket.take_tokens(bytes);
                sent += bytes as u128;
            }
            let due = now.as_nanos() * u128::from(rate) / NANOS;
            prop_assert!(sent + 200 >= due, "{sent} of {due}");
        }
    }

    #[test]
    fn a_clock_that_goes_back_neither_gives_nor_takes() {
        let mut bucket = Bucket::new(1000, 100, Duration::from_secs(10));
        bucket.take_tokens(200);
        let wait = bucket.wait(Duration::from_secs(10));
        assert!(!wait.is_zero());
        assert_eq!(bucket.wait(Duration::from_secs(1)), wait);
        assert_eq!(bucket.wait(Duration::from_secs(11)), Duration::ZERO);
    }
}
