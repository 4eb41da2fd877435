//! Computes means and percentiles.

use serde::{Deserialize, Serialize};

/// What a set of durations is like, microseconds; all `null` for an empty set.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// The arithmetic mean.
    pub mean_us: Option<f64>,
    /// The least.
    pub min_us: Option<f64>,
    /// With [`p97_5_us`](Self::p97_5_us), the error bars of the HyperFork paper's figures.
    pub p2_5_us: Option<f64>,
    /// The median.
    pub p50_us: Option<f64>,
    /// See [`p2_5_us`](Self::p2_5_us).
    pub p97_5_us: Option<f64>,
    /// The 99th percentile.
    pub p99_us: Option<f64>,
    /// The greatest.
    pub max_us: Option<f64>,
}

impl Summary {
    /// Its names in a result.
    pub(crate) const COLUMNS: [&'static str; 7] = [
        "mean_us", "min_us", "p2_5_us", "p50_us", "p97_5_us", "p99_us", "max_us",
    ];

    /// Of these, in any order.
    pub fn of(samples: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |percent| percentile(&sorted, percent).map(tenths);
        let count = sorted.len() as f64;
        Self {
            mean_us: (!sorted.is_empty()).then(|| tenths(sorted.iter().sum::<f64>() / count)),
            min_us: at(0.0),
            p2_5_us: at(2.5),
            p50_us: at(50.0),
            p97_5_us: at(97.5),
            p99_us: at(99.0),
            max_us: at(100.0),
        }
    }
}

/// The `percent`-th percentile of ascending values, between two of them where it
/// falls there (Hyndman and Fan's type 7, as in NumPy and R). `None` without values.
pub fn percentile(sorted: &[f64], percent: f64) -> Option<f64> {
    let rank = percent / 100.0 * sorted.len().checked_sub(1)? as f64;
    let (below, share) = (rank.floor() as usize, rank.fract());
    let low = *sorted.get(below)?;
    let high = *sorted.get(below + 1).unwrap_or(&low);
    Some(low + (high - low) * share)
}

/// Rounded to a tenth: what lies below is noise, and long in a file.
pub(crate) fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_between_values_as_numpy_has_them() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        // numpy.percentile(range(1, 101), [0, 2.5, 50, 97.5, 99, 100])
        for (percent, expected) in [
            (0.0, 1.0),
            (2.5, 3.475),
            (50.0, 50.5),
            (97.5, 97.525),
            (99.0, 99.01),
            (100.0, 100.0),
        ] {
            let found = percentile(&values, percent).unwrap();
            assert!((found - expected).abs() < 1e-9, "{percent}: {found}");
        }
        assert_eq!(percentile(&[7.0], 97.5), Some(7.0));
        assert_eq!(percentile(&[], 50.0), None);
    }

    #[test]
    fn a_summary_does_not_depend_on_the_order_and_is_empty_without_samples() {
        let summary = Summary::of([3.0, 1.0, 2.0]);
        assert_eq!(summary, Summary::of([1.0, 2.0, 3.0]));
        assert_eq!(
            (
                summary.min_us,
                summary.p50_us,
                summary.mean_us,
                summary.max_us
            ),
            (Some(1.0), Some(2.0), Some(2.0), Some(3.0))
        );
        assert_eq!(Summary::of([]), Summary::default());
    }

    #[test]
    fn every_column_is_there_also_without_samples() {
        let written = serde_json::to_value(Summary::default()).unwrap();
        assert_eq!(written.as_object().unwrap().len(), Summary::COLUMNS.len());
        for column in Summary::COLUMNS {
            assert!(written.get(column).is_some_and(|value| value.is_null()));
        }
    }
}
