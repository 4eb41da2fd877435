//! The fuzz targets: builds all of them, runs each from its kept corpus, and reports their
//! coverage.
//!
//! ```text
//!   fuzz/corpus/T (committed) ─┐
//!   found in this run ─────────┴─> T ──> findings: fuzz/artifacts/T, and the check fails
//!                                  └──> with --keep: merged into fuzz/corpus/T
//! ```

mod build;
mod corpus;
mod coverage;
mod libfuzzer;
mod record;
mod target;

use crate::run::step;
use crate::workspace::root;
use anyhow::{Result, bail};
use record::{Record, Row};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::Mutex;
use std::thread;
use target::Outcome;

/// What to do.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this target
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Go on with each target, as long again, until it has run this often
    #[arg(long, default_value_t = 0)]
    runs: u64,
    /// Write what was run and covered to this file; what it says of other targets stays
    #[arg(long)]
    json: Option<PathBuf>,
    /// Keep what was found: the smallest corpus that reaches as much replaces the one that is there
    #[arg(long)]
    keep: bool,
    /// Measure which lines the corpora reach, with a build of its own
    #[arg(long)]
    coverage: bool,
}

impl Default for Args {
    /// A short round, as in CI.
    fn default() -> Self {
        Self {
            target: None,
            seconds: 8,
            runs: 0,
            json: None,
            keep: false,
            coverage: false,
        }
    }
}

impl Args {
    /// Writes it, if that is wanted.
    fn keep_record(&self, record: Record) -> Result<()> {
        self.json
            .as_deref()
            .map_or(Ok(()), |path| record.write_over(path))
    }
}

/// Targets that run at a time: those of devices have two threads each, and mostly one is busy.
const AT_ONCE: usize = 2;

/// Builds and runs them.
///
/// # Errors
/// When one cannot be built, when one finds something, or there is none of that name.
pub(crate) fn fuzz(args: &Args) -> Result<()> {
    let targets = chosen(args.target.as_deref())?;
    step("fuzz targets");
    let programs = build::instrumented(build::Purpose::Fuzzing, &targets)?;
    let mut record = Record {
        rows: run_all(&targets, &programs, args)?,
    };
    if args.coverage {
        step("lines that the corpora reach");
        coverage::measure(&mut record)?;
    }
    record.print();
    args.keep_record(record)
}

/// The targets' names, in order.
fn chosen(name: Option<&str>) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory().join("fuzz_targets"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(
                path.file_stem()
                    .and_then(|stem| stem.to_str())
                    .map(str::to_owned),
            );
        }
    }
    names.sort();
    let Some(name) = name else {
        return Ok(names);
    };
    if !names.iter().any(|known| known == name) {
        bail!(
            "there is no fuzz target '{name}', only {}",
            names.join(", ")
        );
    }
    Ok(vec![name.to_owned()])
}

/// Runs some at a time. All are run, also when one has found something. What each has found and
/// done is kept when it ends: all of them may take hours.
fn run_all(targets: &[String], programs: &Path, args: &Args) -> Result<Vec<Row>> {
    let waiting = Mutex::new(targets.iter());
    let keeping = Mutex::new(());
    let next = || waiting.lock().ok()?.next();
    let work = || {
        let mut outcomes = Vec::new();
        while let Some(target) = next() {
            let program = programs.join(target);
            let mut outcome = target::run(target, &program, args.seconds, args.runs);
            if let Ok(Outcome::Ran(row)) = &mut outcome {
                println!("{}", row.line());
                let _one_at_a_time = keeping.lock();
                if let Err(error) = kept(row, &program, args) {
                    outcome = Err(error);
                }
            }
            outcomes.push(outcome);
        }
        outcomes
    };
    let outcomes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .flat_map(|outcomes| outcomes.unwrap_or_default())
            .collect()
    });
    let (mut rows, mut findings) = (Vec::new(), Vec::new());
    for outcome in outcomes {
        match outcome? {
            Outcome::Ran(row) => rows.push(row),
            Outcome::Found(message) => findings.push(message),
        }
    }
    rows.sort_by(|one, other| one.target.cmp(&other.target));
    match findings.len() {
        0 if rows.len() == targets.len() => Ok(rows),
        0 => bail!("a thread that runs fuzz targets has died"),
        count => bail!(
            "{count} fuzz targets found something\n\n{}",
            findings.join("\n\n")
        ),
    }
}

/// Keeps what a target has found, and what it has done, where that is wanted.
fn kept(row: &mut Row, program: &Path, args: &Args) -> Result<()> {
    if args.keep {
        row.corpus = corpus::minimise(program, &row.target)?;
    }
    let rows = vec![row.clone()];
    args.keep_record(Record { rows })
}

/// Where targets and corpora are.
fn directory() -> PathBuf {
    root().join("fuzz")
}

/// Where everything is that is made of them.
fn target_dir() -> PathBuf {
    static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
        let built = crate::workspace::target_directory();
        built.unwrap_or_else(|_| root().join("target")).join("fuzz")
    });
    DIRECTORY.clone()
}
