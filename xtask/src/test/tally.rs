//! Counts the results that test programs print.

use anyhow::{Result, bail};
use std::ops::AddAssign;

/// Most lines of what a failed test said that are told again at the end.
const SAID_AGAIN: usize = 12;

/// Tests passed and failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(super) passed: u64,
    pub(super) failed: u64,
    failures: Vec<Failure>,
    /// The last of the failures is being told, by the lines that come next.
    in_failure: bool,
}

/// A failed test's name, and how it panicked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    name: String,
    said: Vec<String>,
}

impl Tally {
    /// Says how it went: what failed and why once more, for it is far above by now.
    ///
    /// # Errors
    /// When a test failed, or none was run.
    pub(crate) fn conclude(self) -> Result<()> {
        for Failure { name, said } in &self.failures {
            println!("\nfailed: {name}\n    {}", said.join("\n    "));
        }
        println!("\ntests: {} passed, {} failed", self.passed, self.failed);
        if self.failed > 0 {
            bail!("{} tests failed", self.failed);
        }
        if self.passed == 0 {
            bail!("no test was run");
        }
        Ok(())
    }

    /// These are results of the emulated machine, and the like.
    pub(super) fn of(mut self, place: &str) -> Self {
        for failure in &mut self.failures {
            failure.name.insert_str(0, place);
        }
        self
    }

    /// Adds a line of a test program's output, if it is a summary, which it tells.
    pub(super) fn add_line(&mut self, line: &str) -> bool {
        self.look_for_failures(line);
        let Some(summary) = line.strip_prefix("test result: ") else {
            return false;
        };
        // `ok. 8 passed; 0 failed; …`
        for part in summary.split([';', '.']) {
            match part.trim().split_once(' ') {
                Some((count, "passed")) => self.passed += count.parse().unwrap_or(0),
                Some((count, "failed")) => self.failed += count.parse().unwrap_or(0),
                _ => {}
            }
        }
        true
    }

    /// A failed test is told as `---- NAME stdout ----`, what it printed, `thread … panicked
    /// at PLACE:`, the message, and a backtrace.
    fn look_for_failures(&mut self, line: &str) {
        let name = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.split(' ').next());
        if let Some(name) = name {
            self.in_failure = true;
            self.failures.push(Failure {
                name: name.to_owned(),
                said: Vec::new(),
            });
            return;
        }
        if line == "failures:" || line.starts_with("test result: ") {
            self.in_failure = false;
        }
        let Some(failure) = self.failures.last_mut().filter(|_| self.in_failure) else {
            return;
        };
        if line.starts_with("stack backtrace:") || line.starts_with("note: ") {
            self.in_failure = false;
        } else if line.starts_with("thread ") && line.contains(" panicked at ") {
            // What it printed before is no part of why.
            failure.said = vec![line.to_owned()];
        } else if !line.is_empty() && failure.said.len() < SAID_AGAIN {
            failure.said.push(line.to_owned());
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
        self.failures.extend(more.failures);
    }
}

#[cfg(test)]
mod tests {
    use super::{Failure, Tally};

    #[test]
    fn summaries_add_up() {
        let mut tally = Tally::default();
        for line in [
            "test result: ok. 8 passed; 0 failed; 0 ignored; 0 measured; finished in 0.02s",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; finished in 1s",
        ] {
            assert!(tally.add_line(line));
        }
        assert!(!tally.add_line("running 8 passed tests"));
        assert_eq!((tally.passed, tally.failed), (11, 2));
    }

    #[test]
    fn what_failed_is_told_by_how_it_panicked_and_not_by_what_it_printed_before() {
        let mut tally = Tally::default();
        let output = "test a ... FAILED\n\nfailures:\n\n---- a stdout ----\nround 1\n\n\
            thread 'a' (7) panicked at a.rs:1:2:\nnot so\nstack backtrace:\n   0: rust\n\
            \n\nfailures:\n    a\n\ntest result: FAILED. 0 passed; 1 failed";
        for line in output.lines() {
            tally.add_line(line);
        }
        let failure = Failure {
            name: "level1: a".to_owned(),
            said: vec![
                "thread 'a' (7) panicked at a.rs:1:2:".to_owned(),
                "not so".to_owned(),
            ],
        };
        assert_eq!(tally.of("level1: ").failures, [failure]);
    }
}
