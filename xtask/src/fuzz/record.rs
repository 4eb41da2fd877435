//! The record of a fuzzing run and its coverage, as text and as JSON.

use super::corpus::Size;
use crate::run::output;
use crate::workspace::root;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

/// What the targets have done, one row each.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) rows: Vec<Row>,
}

/// Where and of what.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Host {
    cpu: String,
    cores: usize,
    kernel: String,
    rustc: String,
    /// The commit, with `+changes` if files had changed since.
    commit: String,
}

/// What one target has done.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) target: String,
    pub(super) host: Host,
    /// When it ended, seconds since 1970.
    pub(super) ended_unix_s: u64,
    pub(super) runs: u64,
    pub(super) seconds: u64,
    /// Edges of the program's graph that were passed, of all that are linked into it.
    pub(super) edges: u64,
    pub(super) edges_linked: u64,
    /// What libFuzzer tells apart: edges, and how often each was passed in one run.
    pub(super) features: u64,
    /// The inputs that are committed.
    pub(super) corpus: Size,
    /// Lines of our own code that those reach, where that was measured.
    pub(super) lines: Option<Lines>,
}

/// Lines of code by file: reached, and in all.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Lines {
    pub(super) files: BTreeMap<String, (u64, u64)>,
}

impl Host {
    /// This one, and this commit.
    pub(super) fn this() -> Self {
        Self {
            cpu: processor().unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: trimmed("/proc/sys/kernel/osrelease").unwrap_or_default(),
            rustc: told("rustc", &["--version"]),
            commit: commit(),
        }
    }
}

impl Record {
    /// The sums; each target was reported when it ended.
    pub(super) fn print(&self) {
        for row in &self.rows {
            if let Some(lines) = &row.lines {
                let (reached, all) = lines.sum();
                println!(
                    "  {:10} {reached} of {all} lines in {} files",
                    row.target,
                    lines.files.len()
                );
            }
        }
        let runs: u64 = self.rows.iter().map(|row| row.runs).sum();
        println!(
            "fuzz: {} targets, {runs} runs, nothing found",
            self.rows.len()
        );
    }

    /// Writes it to a file. Rows of other targets, which are there already, stay: a long run of
    /// all targets takes hours, and may be done one by one.
    ///
    /// # Errors
    /// The file system's; what is there is no record.
    pub(super) fn write_over(mut self, path: &Path) -> Result<()> {
        let context = || path.display().to_string();
        let before = match fs::read_to_string(path) {
            Ok(text) => serde_json::from_str(&text).with_context(context)?,
            Err(error) if error.kind() == ErrorKind::NotFound => Self::default(),
            Err(error) => return Err(error).with_context(context),
        };
        let is_new = |row: &Row| self.rows.iter().all(|own| own.target != row.target);
        let others: Vec<_> = before.rows.into_iter().filter(is_new).collect();
        self.rows.extend(others);
        self.rows
            .sort_by(|one, other| one.target.cmp(&other.target));
        let mut text = serde_json::to_string_pretty(&self)?;
        text.push('\n');
        fs::write(path, text).with_context(context)
    }
}

impl Row {
    /// For people.
    pub(super) fn line(&self) -> String {
        format!(
            "  {:10} {:>9} runs in {:>3} s, {:>5} edges, {:>6} features",
            self.target, self.runs, self.seconds, self.edges, self.features
        )
    }
}

impl Lines {
    fn sum(&self) -> (u64, u64) {
        let counts = self.files.values();
        counts.fold((0, 0), |(reached, all), (some, of)| {
            (reached + some, all + of)
        })
    }
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn trimmed(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// Empty where there is no such program, or no repository.
fn told(program: &str, args: &[&str]) -> String {
    let said = output(Command::new(program).args(args).current_dir(root()));
    said.unwrap_or_default().trim().to_owned()
}

fn commit() -> String {
    let commit = told("git", &["rev-parse", "--short=12", "HEAD"]);
    match told("git", &["status", "--porcelain"]).is_empty() {
        true => commit,
        false => format!("{commit}+changes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(target: &str, runs: u64) -> Row {
        Row {
            target: target.to_owned(),
            host: Host::this(),
            ended_unix_s: 1,
            runs,
            seconds: 1,
            edges: 1,
            edges_linked: 1,
            features: 1,
            corpus: Size::default(),
            lines: None,
        }
    }

    #[test]
    fn a_run_of_one_target_replaces_its_row_and_leaves_the_others() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("fuzz.json");
        let write = |rows| Record { rows }.write_over(&path);
        write(vec![row("block", 1), row("net", 2)]).unwrap();
        write(vec![row("net", 3), row("agent", 4)]).unwrap();
        let written: Record = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let rows = written
            .rows
            .iter()
            .map(|row| (row.target.as_str(), row.runs));
        assert_eq!(
            rows.collect::<Vec<_>>(),
            [("agent", 4), ("block", 1), ("net", 3)]
        );
        fs::write(&path, "something else").unwrap();
        assert!(write(Vec::new()).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "something else");
    }
}
