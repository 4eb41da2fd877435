//! Compares a result with an earlier one.

use crate::error::BenchError;
use crate::journal::{Document, Plan, Row, read};
use serde_json::Value;
use std::path::Path;

/// For each row, the ratio of this result's median to the earlier one's: 0.5 is twice as fast.
/// `None` if one of the results has no such row.
///
/// # Errors
/// [`BenchError::OtherHost`]: figures of two hosts say nothing about a program;
/// [`BenchError::Foreign`], [`BenchError::Io`].
pub fn compare<P: Plan>(
    document: &Document<P, P::Row>,
    earlier: &Path,
) -> Result<Vec<Option<f64>>, BenchError> {
    let before: Document<P, P::Row> = read(earlier, document.plan.bench())?;
    if !before.host.is_same_host(&document.host) {
        return Err(BenchError::OtherHost {
            path: earlier.to_owned(),
            theirs: before.host.to_string(),
            ours: document.host.to_string(),
        });
    }
    let before: Vec<_> = before.rows.iter().map(keyed).collect();
    let ratio = |row| {
        let (keys, now) = keyed(row);
        let (_, then) = before.iter().find(|(theirs, _)| *theirs == keys)?;
        Some(now? / (*then)?)
    };
    Ok(document.rows.iter().map(ratio).collect())
}

/// What a row is about, and its median.
fn keyed<R: Row>(row: &R) -> (Vec<Value>, Option<f64>) {
    let row = serde_json::to_value(row).unwrap_or_default();
    let keys = R::KEYS.iter().map(|key| row[key].clone());
    (keys.collect(), row["p50_us"].as_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fork::{ForkPlan, Method, Sample};
    use crate::host::HostRecord;
    use crate::host::tests::some_host;
    use crate::journal::Journal;

    fn measured(
        path: Option<&Path>,
        memory_mib: Vec<u64>,
        us: f64,
        host: HostRecord,
    ) -> Document<ForkPlan, crate::fork::ForkRow> {
        let plan = ForkPlan {
            guest: "nano".to_owned(),
            vcpus: 1,
            memory_mib,
            touched_mib: None,
            dirty_pages: vec![0],
            clones: vec![1],
            depth: vec![0],
            first: false,
            strategies: vec![Method::Image],
            n: 1,
        };
        let mut journal = Journal::open(path, host, plan).unwrap();
        for row in &mut journal.document.rows {
            row.samples.push(Sample::ready_after(us));
        }
        journal.document.complete = true;
        journal.save().unwrap();
        journal.document
    }

    #[test]
    fn rows_are_compared_with_the_same_rows_of_the_same_host_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("before.json");
        measured(Some(&path), vec![128, 64], 100.0, some_host());
        let host = HostRecord {
            commit: "def".to_owned(),
            ..some_host()
        };
        let now = measured(None, vec![64, 256], 50.0, host);
        assert_eq!(compare(&now, &path).unwrap(), [Some(0.5), None]);

        let elsewhere = HostRecord {
            cpu: "another".to_owned(),
            ..some_host()
        };
        let now = measured(None, vec![64], 50.0, elsewhere);
        let refused = compare(&now, &path).unwrap_err();
        assert!(matches!(refused, BenchError::OtherHost { .. }), "{refused}");
    }
}
