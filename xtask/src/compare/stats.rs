//! Ratios of quantiles, and their confidence intervals.

use serde::Serialize;
use std::fmt;

/// How one party's samples stand to another's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Ratio {
    n: usize,
    median: Estimate,
    p99: Estimate,
}

/// A figure with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Estimate {
    value: f64,
    low: f64,
    high: f64,
}

const RESAMPLES: usize = 1000;

impl Ratio {
    /// `None` where there is nothing to compare.
    pub(super) fn of(samples: &[f64], by: &[f64]) -> Option<Self> {
        if samples.is_empty() || by.is_empty() {
            return None;
        }
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut estimate = |share: f64| {
            let of = |samples: &[f64]| quantile(&mut samples.to_vec(), share);
            let mut ratios: Vec<f64> = (0..RESAMPLES)
                .map(|_| of(&random.resample(samples)) / of(&random.resample(by)))
                .collect();
            Estimate {
                value: of(samples) / of(by),
                low: quantile(&mut ratios, 0.025),
                high: quantile(&mut ratios, 0.975),
            }
        };
        Some(Self {
            n: samples.len().min(by.len()),
            median: estimate(0.5),
            p99: estimate(0.99),
        })
    }
}

/// By the nearest rank.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (share * values.len() as f64).ceil() as usize;
    values[rank.clamp(1, values.len()) - 1]
}

/// Xorshift; resampling needs no more.
struct Random(u64);

impl Random {
    fn resample(&mut self, samples: &[f64]) -> Vec<f64> {
        let len = samples.len() as u64;
        let draw = |_| samples[(self.next() % len) as usize];
        (0..samples.len()).map(draw).collect()
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (median, p99) = (self.median, self.p99);
        write!(
            f,
            "median {:.3} ({:.3} to {:.3}), p99 {:.3} ({:.3} to {:.3}), n = {}",
            median.value, median.low, median.high, p99.value, p99.low, p99.high, self.n
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_samples_are_in_the_ratio_of_one_and_doubled_ones_of_two() {
        let samples: Vec<f64> = (1..=100).map(f64::from).collect();
        let doubled: Vec<f64> = samples.iter().map(|value| 2.0 * value).collect();
        let same = Ratio::of(&samples, &samples).unwrap();
        assert_eq!(same.median.value, 1.0);
        assert!(same.median.low < 1.0 && same.median.high > 1.0);
        let twice = Ratio::of(&doubled, &samples).unwrap();
        assert_eq!(twice.median.value, 2.0);
        assert!(twice.median.low > 1.2);
        assert_eq!(Ratio::of(&[], &samples), None);
    }
}
