//! The results of the mode `cow`: written on the console and parsed from it.

use core::fmt;

/// Cycles of the time-stamp counter that writing all pages took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passes {
    /// With a fault at every page: the first pass of a machine, or of a clone.
    pub faulting: u64,
    /// Right after that, without.
    pub again: u64,
}

const MARK: &str = "cow passes, TSC cycles: ";

impl Passes {
    /// The last ones that a console's output tells of.
    pub fn last_in(console: &str) -> Option<Self> {
        let line = console.lines().rev().find_map(|line| line.split_once(MARK));
        let mut words = line?.1.split_ascii_whitespace();
        let mut next = || words.next()?.parse().ok();
        Some(Self {
            faulting: next()?,
            again: next()?,
        })
    }
}

impl fmt::Display for Passes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK}{} {}", self.faulting, self.again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_passes_of_a_console_are_read_back() {
        let (first, last) = (
            Passes {
                faulting: 7_000_000,
                again: 12,
            },
            Passes {
                faulting: 1,
                again: u64::MAX,
            },
        );
        let console = format!("nano: {first}\nnano: Cow, 4 MiB touched\nnano: {last}\nbye");
        assert_eq!(Passes::last_in(&console), Some(last));
        assert_eq!(Passes::last_in("nano: round 1 written"), None);
        assert_eq!(Passes::last_in(&format!("{MARK}12 x")), None);
    }
}
