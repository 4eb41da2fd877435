//! From arguments to what is to be measured.

use super::{BenchBoot, BenchCow, BenchDensity, BenchFork, BenchSoak};
use hyperfork_bench::cow::CowPlan;
use hyperfork_bench::density::DensityPlan;
use hyperfork_bench::fork::{ForkPlan, Method};
use hyperfork_bench::soak::SoakPlan;
use hyperfork_bench::{NANO, State};

/// What of Linux is measured where nothing else is asked for.
const LINUX_METHODS: [Method; 3] = [Method::Image, Method::ProcessFork, Method::Boot];

impl BenchFork {
    /// What was asked for.
    pub(crate) fn plan(&self) -> ForkPlan {
        let nano = self.guests.guest == NANO;
        let methods = match nano {
            true => [&LINUX_METHODS[..], &[Method::Raw]].concat(),
            false => LINUX_METHODS.to_vec(),
        };
        let dirty_pages = match nano && !self.first {
            true => vec![0, 1000],
            false => vec![0],
        };
        ForkPlan {
            guest: self.guests.guest.clone(),
            vcpus: self.guests.cpus,
            memory_mib: distinct(&self.memory_mib),
            touched_mib: self.touched_mib,
            dirty_pages: or(distinct(&self.dirty_pages), dirty_pages),
            strategies: or(distinct(&self.strategy), methods),
            clones: distinct(&self.clones),
            depth: distinct(&self.depth),
            first: self.first,
            n: self.n,
        }
    }
}

impl BenchBoot {
    /// What was asked for.
    pub(crate) fn plan(&self) -> ForkPlan {
        ForkPlan {
            guest: self.guests.guest.clone(),
            vcpus: self.guests.cpus,
            memory_mib: distinct(&self.memory_mib),
            touched_mib: None,
            dirty_pages: vec![0],
            strategies: vec![Method::Boot],
            clones: vec![1],
            depth: vec![0],
            first: false,
            n: self.n,
        }
    }

    /// What the host may remember.
    pub(crate) fn state(&self) -> State {
        if self.cold { State::Cold } else { State::Warm }
    }
}

impl BenchCow {
    /// What was asked for.
    pub(crate) fn plan(&self) -> CowPlan {
        CowPlan {
            vcpus: self.cpus,
            memory_mib: distinct(&self.memory_mib),
            touched_mib: self.touched_mib,
            strategies: distinct(&self.strategy),
            n: self.n,
        }
    }
}

impl BenchDensity {
    /// What was asked for.
    pub(crate) fn plan(&self) -> DensityPlan {
        let powers = (0..).map(|power| 1 << power);
        let mut clones: Vec<u32> = powers.take_while(|clones| *clones < self.n).collect();
        clones.push(self.n);
        DensityPlan {
            guest: self.guests.guest.clone(),
            vcpus: self.guests.cpus,
            memory_mib: distinct(&self.memory_mib),
            touched_mib: self.touched_mib,
            dirty_pages: self.dirty_pages,
            strategies: distinct(&self.strategy),
            clones,
        }
    }
}

impl BenchSoak {
    /// What was asked for.
    pub(crate) fn plan(&self) -> SoakPlan {
        SoakPlan {
            vcpus: self.cpus,
            memory_mib: self.memory_mib,
            touched_mib: self.touched_mib,
            dirty_pages: distinct(&self.dirty_pages),
            later_pages: self.later_pages,
            strategies: distinct(&self.strategy),
            n: self.n,
        }
    }
}

/// Each once, in the order given.
fn distinct<T: Copy + PartialEq>(list: &[T]) -> Vec<T> {
    let mut seen = Vec::new();
    for item in list {
        if !seen.contains(item) {
            seen.push(*item);
        }
    }
    seen
}

fn or<T>(given: Vec<T>, otherwise: Vec<T>) -> Vec<T> {
    if given.is_empty() { otherwise } else { given }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::bench::BenchVerb;
    use crate::args::{Cli, Verb};
    use clap::Parser;

    fn parsed(line: &[&str]) -> Result<BenchVerb, clap::Error> {
        let line = ["hyperfork", "bench"].iter().chain(line);
        match Cli::try_parse_from(line)?.verb {
            Verb::Bench(bench) => Ok(bench.verb),
            verb => panic!("{verb:?}"),
        }
    }

    fn fork(line: &[&str]) -> ForkPlan {
        match parsed(line).unwrap() {
            BenchVerb::Fork(fork) => fork.plan(),
            verb => panic!("{verb:?}"),
        }
    }

    #[test]
    fn what_is_compared_depends_on_the_guest_unless_it_is_asked_for() {
        let nano = fork(&["fork", "--memory-mib", "64,512,64"]);
        assert_eq!(nano.memory_mib, [64, 512]);
        assert_eq!(nano.dirty_pages, [0, 1000]);
        assert_eq!(nano.strategies.len(), 4);
        assert_eq!((nano.clones, nano.depth), (vec![1], vec![0]));
        let linux = fork(&["fork", "--guest", "base"]);
        assert_eq!(
            (linux.dirty_pages, linux.strategies),
            (vec![0], LINUX_METHODS.to_vec())
        );
        let asked = fork(&[
            "fork",
            "--strategy",
            "raw,process-fork",
            "--dirty-pages",
            "7",
        ]);
        assert_eq!(asked.strategies, [Method::Raw, Method::ProcessFork]);
        assert_eq!(asked.dirty_pages, [7]);
        let asked = fork(&["fork", "--clones", "64,256,64", "--depth", "0,1,10"]);
        assert_eq!((asked.clones, asked.depth), (vec![64, 256], vec![0, 1, 10]));
        let asked = fork(&["fork", "--first"]);
        assert_eq!((asked.first, asked.dirty_pages), (true, vec![0]));
    }

    #[test]
    fn clones_double_up_to_the_number_asked_for() {
        for (n, clones) in [
            ("1", &[1][..]),
            ("8", &[1, 2, 4, 8]),
            ("9", &[1, 2, 4, 8, 9]),
        ] {
            match parsed(&["density", "-n", n]).unwrap() {
                BenchVerb::Density(density) => assert_eq!(density.plan().clones, clones),
                verb => panic!("{verb:?}"),
            }
        }
    }

    #[test]
    fn lists_that_make_no_sense_are_refused() {
        for line in [
            &["fork", "--memory-mib", "32"][..],
            &["fork", "--memory-mib", "64,65"],
            &["fork", "--memory-mib", "64MiB"],
            &["fork", "--strategy", "magic"],
            &["fork", "-n", "0"],
            &["fork", "--clones", "0"],
            &["fork", "--clones", "2000"],
            &["fork", "--depth", "1000"],
            &["fork", "--first", "--dirty-pages", "10"],
            &["fork", "--first", "--depth", "1"],
            &["cow", "--strategy", "boot"],
            &["density", "-n", "2000"],
        ] {
            assert!(parsed(line).is_err(), "{line:?} was taken");
        }
    }
}
