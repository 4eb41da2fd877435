//! The command line, in Docker's style.

mod bench;
mod cp;
mod exec;
mod fork;
mod image;
mod list;
mod ports;
mod run;
mod secrets;
mod usage;
mod values;
mod vms;

pub(crate) use bench::{Bench, BenchVerb, Output as BenchOutput};
pub(crate) use cp::{Cp, Place};
pub(crate) use exec::Exec;
pub(crate) use fork::{Demo, DemoGuest, Fork};
pub(crate) use image::{Image, ImageVerb};
pub(crate) use list::{Doctor, Events, Inspect, Logs, Ps, Tree};
pub(crate) use run::{Net, Run};
pub(crate) use usage::Usage;
pub(crate) use vms::{Rm, Stop, Vms};

use clap::{Parser, Subcommand};

/// fork() for microVMs: boot a Linux guest once, clone it while it runs
#[derive(Debug, Parser)]
#[command(
    name = "hyperfork",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "Example: hyperfork run -d --name p --image python\n         \
                  hyperfork fork p -n 8"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Doctor(Doctor),
    Image(Image),
    Run(Run),
    Ps(Ps),
    Inspect(Inspect),
    Logs(Logs),
    Events(Events),
    /// Stop VMs' virtual CPUs where they are
    #[command(after_help = "Example: hyperfork pause p")]
    Pause(Vms),
    /// Let paused VMs run on
    #[command(after_help = "Example: hyperfork resume p")]
    Resume(Vms),
    Stop(Stop),
    Rm(Rm),
    Exec(Exec),
    Cp(Cp),
    Fork(Fork),
    Tree(Tree),
    Bench(Bench),
    Demo(Demo),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_defined() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_help_with_an_example() {
        let mut waiting = vec![Cli::command()];
        while let Some(mut command) = waiting.pop() {
            waiting.extend(command.get_subcommands().cloned());
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example"), "{help}");
            assert!(command.get_about().is_some(), "{help}");
        }
    }

    #[test]
    fn only_verbs_that_work_are_there() {
        let verbs: Vec<_> = Cli::command()
            .get_subcommands()
            .map(|verb| verb.get_name().to_owned())
            .collect();
        assert_eq!(
            verbs,
            [
                "doctor", "image", "run", "ps", "inspect", "logs", "events", "pause", "resume",
                "stop", "rm", "exec", "cp", "fork", "tree", "bench", "demo"
            ]
        );
    }
}
