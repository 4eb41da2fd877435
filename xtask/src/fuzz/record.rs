//! The record of a fuzzing run and its coverage, as text and as JSON.

use super::corpus::Size;
use crate::run::output;
use crate::workspace::root;
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

/// One run of the targets.
#[derive(Serialize)]
pub(super) struct Record {
    host: Host,
    /// Seconds that each target was to run.
    seconds: u64,
    pub(super) rows: Vec<Row>,
}

/// Where and of what.
#[derive(Serialize)]
struct Host {
    cpu: String,
    cores: usize,
    kernel: String,
    rustc: String,
    /// The commit, with `+changes` if files had changed since.
    commit: String,
    /// When it ended, seconds since 1970.
    ended_unix_s: u64,
}

/// What one target has done.
#[derive(Serialize)]
pub(super) struct Row {
    pub(super) target: String,
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
#[derive(Serialize)]
pub(super) struct Lines {
    pub(super) files: BTreeMap<String, (u64, u64)>,
}

impl Record {
    /// On this host, of this commit.
    pub(super) fn now(seconds: u64, rows: Vec<Row>) -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            host: Host {
                cpu: processor().unwrap_or_else(|| "unknown".to_owned()),
                cores: std::thread::available_parallelism().map_or(1, usize::from),
                kernel: trimmed("/proc/sys/kernel/osrelease").unwrap_or_default(),
                rustc: told("rustc", &["--version"]),
                commit: commit(),
                ended_unix_s: since_1970.map_or(0, |since| since.as_secs()),
            },
            seconds,
            rows,
        }
    }

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

    /// # Errors
    /// The file system's.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(path, text).with_context(|| path.display().to_string())
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
