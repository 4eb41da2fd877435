//! Keeps results in a file that is valid at any moment, so that a run that was ended can be
//! continued.

use crate::error::BenchError;
use crate::guest::Guest;
use crate::host::HostRecord;
use crate::vms::Vms;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// What an experiment wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document<P, R> {
    /// Which experiment.
    pub bench: String,
    /// Whether all samples are there.
    pub complete: bool,
    /// Where and how it was measured.
    pub host: HostRecord,
    /// What was to be measured.
    pub plan: P,
    /// What was.
    pub rows: Vec<R>,
}

/// What is to be measured.
pub trait Plan: Clone + PartialEq + Serialize + DeserializeOwned {
    /// A line of its results.
    type Row: Row;

    /// The experiment's name, as a verb.
    fn bench(&self) -> &'static str;

    /// Whether the guests can do all this.
    ///
    /// # Errors
    /// One for which [`BenchError::is_usage`].
    fn check(&self) -> Result<(), BenchError>;

    /// All rows, with nothing measured yet.
    fn rows(&self) -> Vec<Self::Row>;

    /// The same with another number of samples: what may be continued.
    fn with_samples_of(&self, other: &Self) -> Self;

    /// Measures the samples missing in the journal. A row that fails records why, and the other
    /// rows continue.
    ///
    /// # Errors
    /// What concerns all rows. What was measured until then is in the journal.
    fn measure(
        journal: &mut Journal<Self>,
        guest: &Guest,
        vms: &mut Vms<'_>,
    ) -> Result<(), BenchError>;
}

/// A line of results: serialised, the columns of a table.
pub trait Row: Clone + Serialize + DeserializeOwned {
    /// The columns that say what was measured.
    const KEYS: &'static [&'static str];
    /// The columns that say what came out, beside `n` and those of a
    /// [`Summary`](crate::Summary).
    const VALUES: &'static [&'static str];

    /// What it is about, for people.
    fn title(&self) -> String;

    /// Why it could not be measured.
    fn failed(&self) -> Option<&str>;

    /// What it has shown to be wrong with the program, as a message.
    fn verdict(&self) -> Option<String> {
        None
    }

    /// Works everything out that follows from the samples.
    fn summarise(&mut self);

    /// Forgets that something failed, to try again.
    fn retry(&mut self);
}

/// A document and the file it is kept in.
#[derive(Debug)]
pub struct Journal<P: Plan> {
    path: Option<PathBuf>,
    /// All there is so far.
    pub document: Document<P, P::Row>,
}

impl<P: Plan> Journal<P> {
    /// Begins, or goes on with the unfinished result in `path`. A finished one is
    /// measured anew.
    ///
    /// # Errors
    /// [`BenchError::OtherHost`], [`BenchError::OtherProgram`] and
    /// [`BenchError::OtherPlan`] for an unfinished result that this run cannot finish;
    /// [`BenchError::Foreign`], [`BenchError::Io`].
    pub fn open(path: Option<&Path>, host: HostRecord, plan: P) -> Result<Self, BenchError> {
        let begun = match path {
            Some(path) => unfinished(path, &host, &plan)?,
            None => None,
        };
        let rows = match begun {
            Some(mut begun) => {
                begun.iter_mut().for_each(Row::retry);
                begun
            }
            None => plan.rows(),
        };
        let document = Document {
            bench: plan.bench().to_owned(),
            complete: false,
            host,
            plan,
            rows,
        };
        let mut journal = Self {
            path: path.map(Path::to_owned),
            document,
        };
        // Fails now, and not after the measurement, if the file cannot be written.
        journal.save()?;
        Ok(journal)
    }

    /// Writes what there is.
    ///
    /// # Errors
    /// [`BenchError::Io`].
    pub fn save(&mut self) -> Result<(), BenchError> {
        self.document.rows.iter_mut().for_each(Row::summarise);
        let Some(path) = &self.path else {
            return Ok(());
        };
        let mut name = path.clone().into_os_string();
        name.push(".new");
        let new = PathBuf::from(name);
        let failed = |source| BenchError::io("write", path)(source);
        let text =
            serde_json::to_vec_pretty(&self.document).map_err(|error| failed(error.into()))?;
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, path))
            .map_err(failed)
    }

    /// Measures what is missing.
    ///
    /// # Errors
    /// As [`Plan::measure`] and [`save`](Self::save).
    pub fn run(
        mut self,
        guest: &Guest,
        vms: &mut Vms<'_>,
    ) -> Result<Document<P, P::Row>, BenchError> {
        let measured = P::measure(&mut self, guest, vms);
        self.document.complete = measured.is_ok();
        self.save()?;
        measured.map(|()| self.document)
    }
}

/// The rows of an unfinished result at `path`; `None` if there is none.
fn unfinished<P: Plan>(
    path: &Path,
    host: &HostRecord,
    plan: &P,
) -> Result<Option<Vec<P::Row>>, BenchError> {
    // An empty one is what mktemp(1) makes.
    if fs::metadata(path).map_or(true, |meta| meta.is_file() && meta.len() == 0) {
        return Ok(None);
    }
    let found: Document<P, P::Row> = read(path, plan.bench())?;
    if found.complete {
        return Ok(None);
    }
    let path = path.to_owned();
    let (theirs, ours) = (found.host.to_string(), host.to_string());
    if !found.host.is_same_host(host) {
        return Err(BenchError::OtherHost { path, theirs, ours });
    }
    if !found.host.is_same_program(host) {
        return Err(BenchError::OtherProgram { path, theirs, ours });
    }
    if found.plan.with_samples_of(plan) != *plan || found.rows.len() != plan.rows().len() {
        return Err(BenchError::OtherPlan { path });
    }
    Ok(Some(found.rows))
}

/// Reads a result of experiment `bench`.
///
/// # Errors
/// [`BenchError::Foreign`] for any other file, [`BenchError::Io`].
pub fn read<P: Plan>(path: &Path, bench: &'static str) -> Result<Document<P, P::Row>, BenchError> {
    let text = fs::read(path).map_err(BenchError::io("read", path))?;
    serde_json::from_slice(&text)
        .ok()
        .filter(|document: &Document<P, P::Row>| document.bench == bench)
        .ok_or_else(|| BenchError::Foreign {
            path: path.to_owned(),
            bench,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fork::{ForkPlan, Method};
    use crate::host::tests::some_host;

    fn plan(samples: usize) -> ForkPlan {
        ForkPlan {
            guest: "nano".to_owned(),
            vcpus: 1,
            memory_mib: vec![64, 128],
            touched_mib: None,
            dirty_pages: vec![0],
            clones: vec![1],
            depth: vec![0],
            first: false,
            strategies: vec![Method::Boot],
            n: samples,
        }
    }

    fn begun(path: &Path) -> Journal<ForkPlan> {
        let mut journal = Journal::open(Some(path), some_host(), plan(3)).unwrap();
        journal.document.rows[0]
            .samples
            .push(crate::fork::Sample::ready_after(7.0));
        journal.save().unwrap();
        journal
    }

    #[test]
    fn an_unfinished_result_is_continued_also_with_more_samples_and_a_finished_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fork.json");
        let journal = begun(&path);
        for samples in [3, 9] {
            let continued = Journal::open(Some(&path), some_host(), plan(samples)).unwrap();
            assert_eq!(continued.document.rows, journal.document.rows);
        }
        let mut finished = journal;
        finished.document.complete = true;
        finished.save().unwrap();
        let anew = Journal::open(Some(&path), some_host(), plan(3)).unwrap();
        assert!(anew.document.rows.iter().all(|row| row.samples.is_empty()));
    }

    #[test]
    fn what_another_host_build_or_plan_began_is_neither_continued_nor_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fork.json");
        let journal = begun(&path);
        let before = fs::read(&path).unwrap();
        let host = HostRecord {
            kernel: "6.1".to_owned(),
            ..some_host()
        };
        let refused = Journal::open(Some(&path), host, plan(3)).unwrap_err();
        assert!(matches!(refused, BenchError::OtherHost { .. }), "{refused}");
        let host = HostRecord {
            commit: "def".to_owned(),
            ..some_host()
        };
        let refused = Journal::open(Some(&path), host, plan(3)).unwrap_err();
        assert!(
            matches!(refused, BenchError::OtherProgram { .. }),
            "{refused}"
        );
        let other = ForkPlan {
            vcpus: 2,
            ..plan(3)
        };
        let refused = Journal::open(Some(&path), some_host(), other).unwrap_err();
        assert!(matches!(refused, BenchError::OtherPlan { .. }), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), before);
        drop(journal);
    }

    #[test]
    fn a_file_that_is_no_result_is_left_alone_and_an_empty_one_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.json");
        fs::write(&path, "{\"mine\": 1}").unwrap();
        let refused = Journal::open(Some(&path), some_host(), plan(3)).unwrap_err();
        assert!(matches!(refused, BenchError::Foreign { .. }), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), b"{\"mine\": 1}");
        fs::write(&path, "").unwrap();
        Journal::open(Some(&path), some_host(), plan(3)).unwrap();
        assert!(read::<ForkPlan>(&path, "boot").is_ok());
        let nowhere = dir.path().join("no/such/fork.json");
        assert!(Journal::open(Some(&nowhere), some_host(), plan(3)).is_err());
    }
}
