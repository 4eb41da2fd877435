//! Rate limits by token buckets. Time is an argument.

use std::time::Duration;

/// A token bucket: it fills at a steady rate up to its capacity, and each byte sent takes a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bucket {
    /// Bytes a second.
    rate: u64,
    /// Most tokens in it.
    capacity: u64,
    /// Tokens in it; below zero after a frame that was larger than the level.
    level: i128,
    /// When it was last filled.
    then: Duration,
}

impl Bucket {
    /// A full bucket for `rate` bytes a second. It holds the tokens of a tenth of a second, or
    /// those for the largest frame if that is more.
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

    /// How long to wait before the next frame.
    pub(super) fn wait(&mut self, now: Duration) -> Duration {
        self.fill(now);
        match u128::try_from(-self.level) {
            // A positive level is enough for a frame of any size: the rest is owed.
            Ok(owed) => {
                let nanos = (owed + 1) * NANOS / u128::from(self.rate) + 1;
                Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            }
            Err(_) => Duration::ZERO,
        }
    }

    /// Takes the tokens for bytes that were sent.
    pub(super) fn take_tokens(&mut self, bytes: usize) {
        self.level -= bytes as i128;
    }

    fn fill(&mut self, now: Duration) {
        // A clock that went back adds nothing, and takes nothing away.
        let since = now.saturating_sub(self.then);
        let new = since.as_nanos() * u128::from(self.rate) / NANOS;
        if new > 0 {
            let new = i128::try_from(new).unwrap_or(i128::MAX);
            self.level = self.level.saturating_add(new).min(self.capacity.into());
            // The fraction of a token is kept for the next time.
            let used = new.unsigned_abs() * NANOS / u128::from(self.rate);
            self.then += Duration::from_nanos(u64::try_from(used).unwrap_or(u64::MAX));
        }
    }
}

/// The rate limit of one direction, if it has one.
#[derive(Debug)]
pub(super) struct Limit(Option<Bucket>);

impl Limit {
    /// A limit of `rate` bytes a second, if any, for frames up to `largest` bytes.
    pub(super) fn new(rate: Option<u64>, largest: u64, now: Duration) -> Self {
        Self(rate.map(|rate| Bucket::new(rate, largest, now)))
    }

    /// How long to wait before the next frame; `None` if it may pass now.
    pub(super) fn wait(&mut self, now: Duration) -> Option<Duration> {
        let wait = self.0.as_mut()?.wait(now);
        (!wait.is_zero()).then_some(wait)
    }

    /// Takes the tokens for bytes that have passed.
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
        /// allow, give or take one frame; and a sender may send after the wait.
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
