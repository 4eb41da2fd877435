//! Soaks: long runs of tests and experiments, with larger numbers than in CI.
//!
//! A soak is a test or an experiment that takes its numbers from outside. It has no second
//! implementation here: [`SOAKS`] lists what runs longer, one entry each.

use crate::programs;
use crate::run::{output, run, step, watch};
use crate::workspace::{self, cargo, root};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which; without it, all are listed
    name: Option<String>,
    /// How many rounds; what a round is, the list says
    #[arg(long)]
    rounds: Option<u64>,
    /// Do it again and again until so many seconds have gone by
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// Where its result goes [default: docs/results/soak/NAME.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

struct Soak {
    name: &'static str,
    /// What a round is.
    round: &'static str,
    rounds: u64,
    how: How,
}

enum How {
    /// A test of a package, which reads the number of rounds from a variable.
    Test {
        package: &'static str,
        test: &'static str,
        /// Which of its tests; all, if there is nothing in it.
        filter: &'static str,
        variable: &'static str,
        /// Other variables.
        more: &'static [(&'static str, &'static str)],
    },
    /// Code of its own, given the number of rounds: whether it succeeded, and its report.
    Own(fn(u64) -> Result<(bool, Value)>),
}

const SOAKS: &[Soak] = &[
    Soak {
        name: "forks",
        round: "a fork of each of two parents, with what is left behind counted",
        rounds: 10_000,
        how: How::Own(forks),
    },
    Soak {
        name: "nano",
        round: "a fork of the embedded guest, busy on two CPUs, whose clone checks itself",
        rounds: 5_000,
        how: How::Test {
            package: "hyperfork-vmm",
            test: "fork_of_nano",
            filter: "again_and_again",
            variable: "HYPERFORK_TEST_NANO_FORKS",
            more: &[],
        },
    },
    Soak {
        name: "faults",
        round: "a fork of the embedded guest, while processes around it are killed and stopped",
        rounds: 1000,
        how: How::Test {
            package: "hyperfork-cli",
            test: "random_faults",
            filter: "",
            variable: "HYPERFORK_FAULT_ROUNDS",
            more: &[],
        },
    },
    Soak {
        name: "faults-linux",
        round: "the same with a Linux guest",
        rounds: 100,
        how: How::Test {
            package: "hyperfork-cli",
            test: "random_faults",
            filter: "",
            variable: "HYPERFORK_FAULT_ROUNDS",
            more: &[("HYPERFORK_FAULT_IMAGE", "base")],
        },
    },
    Soak {
        name: "identity",
        round: "64 clones of a Python process that was running, asked for all that must differ",
        rounds: 20,
        how: How::Test {
            package: "hyperfork-cli",
            test: "identity",
            filter: "",
            variable: "HYPERFORK_IDENTITY_ROUNDS",
            more: &[("HYPERFORK_IDENTITY_CLONES", "64")],
        },
    },
    Soak {
        name: "disks",
        round: "a clone of each of four forks, all of which write files, its disk checked",
        rounds: 25,
        how: How::Test {
            package: "hyperfork-cli",
            test: "linux_conformance",
            filter: "the_disks_of_clones_forked_at_once",
            variable: "HYPERFORK_TEST_DISK_CLONES",
            more: &[],
        },
    },
    Soak {
        name: "load",
        round: "a fork of each of two Linux guests with programs on all CPUs, whose clone checks itself",
        rounds: 100,
        how: How::Test {
            package: "hyperfork-cli",
            test: "linux_conformance",
            filter: "of_many_forks",
            variable: "HYPERFORK_TEST_FORKS",
            more: &[],
        },
    },
    Soak {
        name: "time",
        round: "a fork of a busy Linux guest that watches its clocks",
        rounds: 100,
        how: How::Test {
            package: "hyperfork-cli",
            test: "linux_conformance",
            filter: "time_goes_on",
            variable: "HYPERFORK_TEST_FORKS",
            more: &[],
        },
    },
];

/// Runs one, or lists all.
///
/// # Errors
/// When it fails, or cannot be run.
pub(crate) fn soak(args: &Args) -> Result<()> {
    let Some(name) = &args.name else {
        list();
        return Ok(());
    };
    let soak = SOAKS.iter().find(|soak| soak.name == name);
    let soak = soak.with_context(|| format!("no soak {name}: see `cargo xtask soak`"))?;
    let rounds = args.rounds.unwrap_or(soak.rounds);
    let host = host()?;
    let begun = Instant::now();
    let mut runs = Vec::new();
    let succeeded = loop {
        step(&format!(
            "soak {name}, run {}: {rounds} rounds",
            runs.len() + 1
        ));
        let (succeeded, told) = soak.how.run(rounds)?;
        runs.push(told);
        if !succeeded || begun.elapsed() >= Duration::from_secs(args.seconds) {
            break succeeded;
        }
    };
    let result = json!({
        "soak": name,
        "round": soak.round,
        "rounds": rounds,
        "succeeded": succeeded,
        "seconds": begun.elapsed().as_secs(),
        "host": host,
        "runs": runs,
    });
    let path = match &args.json {
        Some(path) => path.clone(),
        None => root().join(format!("docs/results/soak/{name}.json")),
    };
    let text = crate::results::format(&result.to_string())?;
    fs::write(&path, text).with_context(|| path.display().to_string())?;
    println!("soak {name}: written to {}", path.display());
    if !succeeded {
        bail!("soak {name} failed in run {}", runs.len());
    }
    Ok(())
}

fn list() {
    for soak in SOAKS {
        println!("{:10} {:6} times: {}", soak.name, soak.rounds, soak.round);
    }
}

impl How {
    fn run(&self, rounds: u64) -> Result<(bool, Value)> {
        match self {
            Self::Test {
                package,
                test,
                filter,
                variable,
                more,
            } => {
                let selection = ["--package", package, "--test", test];
                let built = programs::build(&selection)?;
                let program = built.iter().find(|program| program.is_integration_test());
                let program = program.with_context(|| format!("no test {test} was built"))?;
                // Tests of the program are of Linux guests as well.
                if built.iter().any(|program| !program.is_test) {
                    crate::test::images(&["base", "python"])?;
                }
                let mut command = program.command();
                command.env(variable, rounds.to_string());
                command.envs(more.iter().copied());
                command.args(["--nocapture", filter]);
                lines_of(&mut command)
            }
            Self::Own(own) => own(rounds),
        }
    }
}

/// `hyperfork bench soak`, of a release build.
fn forks(rounds: u64) -> Result<(bool, Value)> {
    let mut build = cargo(&["build", "--locked", "--release"]);
    run(build.args(["--package", "hyperfork-cli"]))?;
    let scratch = tempfile::tempdir()?;
    let json = scratch.path().join("soak.json");
    let program = workspace::target_directory()?.join("release/hyperfork");
    let mut command = Command::new(program);
    command.args(["bench", "soak", "-n", &rounds.to_string(), "--json"]);
    let succeeded = command.arg(&json).status()?.success();
    let text = fs::read_to_string(&json).context("bench soak has left no result")?;
    Ok((succeeded, serde_json::from_str(&text)?))
}

/// Runs a test program, and returns whether it succeeded, and its lines of output.
fn lines_of(command: &mut Command) -> Result<(bool, Value)> {
    let mut lines = Vec::new();
    let status = watch(command, |line| lines.push(line))?;
    lines.retain(|line| !line.trim().is_empty());
    // One that ran nothing has shown nothing.
    let ran_one = !lines.iter().any(|line| line == "running 0 tests");
    Ok((status.success() && ran_one, lines.into()))
}

/// Where it ran, and of which commit.
fn host() -> Result<Value> {
    let commit = output(Command::new("git").current_dir(root()).args([
        "describe",
        "--always",
        "--dirty=+changes",
        "--abbrev=12",
    ]));
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let cpu = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, name)| name);
    let kvm = ["kvm_pvm", "kvm_amd", "kvm_intel"];
    let kvm = kvm
        .iter()
        .find(|name| Path::new("/sys/module").join(name).exists());
    Ok(json!({
        "cpu": cpu,
        "cores": std::thread::available_parallelism()?.get(),
        "kvm": kvm,
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        "commit": commit.map_or("unknown".to_owned(), |commit| commit.trim().to_owned()),
        "load": fs::read_to_string("/proc/loadavg")?.trim(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of a test target: one file, or a directory of them.
    fn source(package: &str, test: &str) -> String {
        let package = package.trim_start_matches("hyperfork-");
        let tests = root().join("crates").join(package).join("tests");
        let file = tests.join(test).with_extension("rs");
        if file.is_file() {
            return fs::read_to_string(file).unwrap();
        }
        let files = fs::read_dir(tests.join(test)).unwrap();
        files
            .filter_map(|file| fs::read_to_string(file.unwrap().path()).ok())
            .collect()
    }

    #[test]
    fn every_soak_names_a_test_that_is_there_and_reads_its_rounds() {
        for soak in SOAKS {
            let How::Test {
                package,
                test,
                filter,
                variable,
                more,
            } = &soak.how
            else {
                continue;
            };
            let source = source(package, test);
            let variables = more.iter().map(|(name, _)| name).chain([variable]);
            for needed in variables.chain([filter]) {
                assert!(source.contains(needed), "{}: no {needed}", soak.name);
            }
        }
    }
}
