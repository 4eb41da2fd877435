//! The project's own tools: `cargo xtask ci | test | level1 | soak | fuzz | layers | deny | results |
//! docs`.
#![forbid(unsafe_code)]

mod ci;
mod compare;
mod deny;
mod docs;
mod fuzz;
mod layers;
mod level1;
mod plot;
mod programs;
mod results;
mod run;
mod soak;
mod test;
mod times;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Checks and tests of HyperFork.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Everything a change has to pass: format, lints, layers, licences, results, generated files, tests
    Ci,
    /// All tests: prepares what they need (guest images), runs them here and in the emulated hardware-KVM machine
    Test {
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Only the tests in the emulated hardware-KVM machine
    Level1 {
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Feed hostile input to everything that is parsed: all fuzz targets, or one
    Fuzz(fuzz::Args),
    /// Compare two builds: the same forks, in turn, as ratios
    Compare(compare::Compare),
    /// What CI runs a short round of, for longer
    Soak(soak::Args),
    /// Check that no layer imports from above, and no files import each other in a circle
    Layers,
    /// Check licences, bans, sources and advisories of all dependencies
    Deny,
    /// Format the raw figures in docs/results, or check them
    Results {
        /// Only check
        #[arg(long)]
        check: bool,
    },
    /// Write the generated documents, or check that they are current
    Docs {
        /// Only check
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    match perform(Args::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        // With its causes; a backtrace would be of this program, not of what failed.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Ci => ci::ci(),
        Verb::Test { filter } => test::test(filter.as_deref()),
        Verb::Level1 { filter } => test::emulated(filter.as_deref()),
        Verb::Compare(args) => compare::run(&args),
        Verb::Soak(args) => soak::soak(&args),
        Verb::Fuzz(args) => fuzz::fuzz(&args),
        Verb::Layers => layers::check(),
        Verb::Deny => deny::check(),
        Verb::Results { check } => results::results(check),
        Verb::Docs { check } => docs::docs(check),
    }
}
