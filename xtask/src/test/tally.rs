//! Counts the results that test programs print.

use anyhow::{Result, bail};
use std::ops::AddAssign;

/// Tests passed and failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(super) passed: u64,
    pub(super) failed: u64,
}

impl Tally {
    /// Says how it went.
    ///
    /// # Errors
    /// When a test failed, or none was run.
    pub(crate) fn conclude(self) -> Result<()> {
        println!("\ntests: {} passed, {} failed", self.passed, self.failed);
        if self.failed > 0 {
            bail!("{} tests failed", self.failed);
        }
        if self.passed == 0 {
            bail!("no test was run");
        }
        Ok(())
    }

    /// Adds a line of a test program's output, if it is a summary, which it tells.
    pub(super) fn add_line(&mut self, line: &str) -> bool {
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
}

impl AddAssign for Tally {
    fn add_assign(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

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
}
