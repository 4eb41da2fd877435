//! `hyperfork`: `fork()` for microVMs, on the command line.
//!
//! | module | does |
//! |---|---|
//! | [`args`] | the command line, typed |
//! | [`config`] | configuration from the environment |
//! | [`verbs`] | one module per verb |
//! | [`guest`] | talking to programs inside a guest: streams, terminals, archives |
//! | [`doctor`] | what this host can do |
//! | [`demo`] | the demonstration |
//! | [`ui`] | tables, progress, errors |
//! | [`exit`] | every exit status, in one place |
//!
//! VMs run in processes of their own, of the program `hyperfork-vm`; this program is their
//! client.
#![forbid(unsafe_code)]

mod args;
mod config;
mod demo;
mod doctor;
mod exit;
mod guest;
mod interrupt;
mod ui;
mod verbs;

use args::Verb;
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let verb = args::Cli::parse().verb;
    let trouble = exit::trouble_with(&verb);
    match run(verb) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            ui::error(&error);
            ExitCode::from(exit::status_of(&error, trouble))
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// The verb's.
fn run(verb: Verb) -> anyhow::Result<u8> {
    match verb {
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Image(args) => verbs::image::run(args.verb),
        Verb::Run(args) => verbs::run::run(args),
        Verb::Ps(args) => verbs::ps::run(&args),
        Verb::Inspect(args) => verbs::inspect::run(&args),
        Verb::Logs(args) => verbs::logs::run(&args),
        Verb::Events(args) => verbs::events::run(args),
        Verb::Pause(args) => verbs::vms::pause(&args),
        Verb::Resume(args) => verbs::vms::resume(&args),
        Verb::Stop(args) => verbs::vms::stop(&args),
        Verb::Rm(args) => verbs::vms::rm(&args),
        Verb::Exec(args) => verbs::exec::run(args),
        Verb::Cp(args) => verbs::cp::run(args),
        Verb::Fork(args) => verbs::fork::run(args),
        Verb::Tree(args) => verbs::tree::run(&args),
        Verb::Bench(args) => verbs::bench::run(args),
        Verb::Demo(args) => demo::run(&args),
    }
}
