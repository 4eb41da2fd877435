//! Runs one target, and reads libFuzzer's output.

use super::corpus;
use super::libfuzzer::libfuzzer;
use super::record::{Host, Row};
use super::{directory, target_dir};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

/// How a target's run ended.
pub(super) enum Outcome {
    /// Nothing was found.
    Ran(Row),
    /// Something was: what to tell, with the file that brings it about again.
    Found(String),
}

/// Lines of what was said that are told of a finding.
const LINES_TOLD: usize = 25;

/// Runs `program` for this long, from the kept corpus, and again until it has run at least `runs`
/// times. New inputs go to a directory of their own.
///
/// # Errors
/// When it cannot be run, or says nothing that can be read.
pub(super) fn run(target: &str, program: &Path, seconds: u64, runs: u64) -> Result<Outcome> {
    corpus::fresh(&corpus::found(target))?;
    let begun = Instant::now();
    let mut before = 0;
    loop {
        let mut outcome = run_once(target, program, seconds)?;
        if let Outcome::Ran(row) = &mut outcome {
            row.runs += before;
            row.seconds = begun.elapsed().as_secs();
            // A program that does not run at all would go on for ever.
            if row.runs < runs && row.runs > before {
                before = row.runs;
                continue;
            }
        }
        return Ok(outcome);
    }
}

fn run_once(target: &str, program: &Path, seconds: u64) -> Result<Outcome> {
    let artifacts = directory().join("artifacts").join(target);
    fs::create_dir_all(&artifacts)?;
    let log = target_dir().join("logs").join(format!("{target}.log"));
    let (mut command, _scratch) = libfuzzer(program, &log)?;
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.args(["-print_final_stats=1", "-reload=0"]);
    command.args([corpus::found(target), corpus::kept(target)]);
    let status = command
        .status()
        .with_context(|| format!("cannot start {target}"))?;
    let said = fs::read_to_string(&log).unwrap_or_default();
    if !status.success() {
        return Ok(Outcome::Found(finding(target, program, &said)));
    }
    let coverage = Coverage::of(&said).with_context(|| format!("see {}", log.display()))?;
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Ok(Outcome::Ran(Row {
        target: target.to_owned(),
        host: Host::this(),
        ended_unix_s: since_1970.map_or(0, |since| since.as_secs()),
        runs: number_after(&said, "stat::number_of_executed_units:").unwrap_or_default(),
        seconds: 0,
        edges: coverage.edges,
        edges_linked: number_between(&said, "INFO: Loaded 1 modules", "(").unwrap_or_default(),
        features: coverage.features,
        corpus: corpus::Size::of(&corpus::kept(target))?,
        lines: None,
    }))
}

/// What libFuzzer says last of what it has reached.
#[derive(Debug, PartialEq, Eq)]
struct Coverage {
    edges: u64,
    features: u64,
}

impl Coverage {
    fn of(said: &str) -> Option<Self> {
        let last = said
            .lines()
            .rfind(|line| line.starts_with('#') && line.contains(" cov: "))?;
        Some(Self {
            edges: number_after(last, " cov: ")?,
            features: number_after(last, " ft: ")?,
        })
    }
}

fn finding(target: &str, program: &Path, said: &str) -> String {
    const WRITTEN: &str = "Test unit written to ";
    let reproducer = said.lines().rev().find_map(|line| line.split_once(WRITTEN));
    let reproducer = reproducer.map(|(_, path)| PathBuf::from(path.trim()));
    let lines: Vec<_> = said.lines().collect();
    let last = lines[lines.len().saturating_sub(LINES_TOLD)..].join("\n  ");
    match reproducer {
        Some(path) => format!(
            "{target}: again by\n  {} {}\n  {last}",
            program.display(),
            path.display()
        ),
        None => format!("{target}: no input was reported\n  {last}"),
    }
}

fn number_after(text: &str, words: &str) -> Option<u64> {
    let (_, rest) = text.split_once(words)?;
    rest.split_whitespace().next()?.parse().ok()
}

fn number_between(text: &str, words: &str, mark: &str) -> Option<u64> {
    let (_, rest) = text.split_once(words)?;
    let (_, rest) = rest.split_once(mark)?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
INFO: Running with entropic power schedule (0xFF, 100).
INFO: Loaded 1 modules   (96051 inline 8-bit counters): 96051 [0x5, 0x6), 
#2\tINITED cov: 100 ft: 101 corp: 1/1b exec/s: 0 rss: 40Mb
#4096\tDONE   cov: 812 ft: 2307 corp: 97/6Kb lim: 4096 exec/s: 512 rss: 48Mb
Done 4096 runs in 8 second(s)
stat::number_of_executed_units: 4096
";

    #[test]
    fn what_was_reached_is_what_libfuzzer_says_last() {
        let (edges, features) = (812, 2307);
        assert_eq!(Coverage::of(SAID), Some(Coverage { edges, features }));
        assert_eq!(
            number_after(SAID, "stat::number_of_executed_units:"),
            Some(4096)
        );
        assert_eq!(
            number_between(SAID, "INFO: Loaded 1 modules", "("),
            Some(96_051)
        );
    }

    #[test]
    fn a_finding_is_told_with_the_input_that_brings_it_about_again() {
        let said =
            "panicked at x\nartifact_prefix='a/'; Test unit written to a/crash-1\nBase64: AA";
        let message = finding("block", Path::new("/b/block"), said);
        assert!(
            message.contains("/b/block a/crash-1") && message.contains("panicked at x"),
            "{message}"
        );
        assert!(finding("block", Path::new("/b/block"), "killed").contains("no input"));
    }
}
