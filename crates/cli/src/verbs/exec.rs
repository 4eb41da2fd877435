//! `exec`.

use crate::args::Exec;
use crate::config;
use crate::guest::{Session, Streams, environment_of, set, window_size};
use anyhow::{Context, bail};
use hyperfork_api::guest::Command;
use hyperfork_api::{VmInfo, VmState};
use hyperfork_host::agent::Agent;
use std::io::IsTerminal;

/// Runs a command in a VM; returns its exit status.
///
/// # Errors
/// It cannot be run there.
pub(crate) fn run(args: Exec) -> anyhow::Result<u8> {
    if args.tty && args.interactive && !std::io::stdin().is_terminal() {
        bail!("standard input is not a terminal: leave out -t");
    }
    let dir = config::vm(&args.vm)?;
    let info = dir.info()?;
    must_answer(&info)?;
    let mut env = environment_of(&info.about.image);
    if args.tty
        && let Ok(term) = std::env::var("TERM")
    {
        env.push(("TERM".to_owned(), term));
    }
    set(&mut env, args.variables());
    let streams = Streams {
        stdin: args.interactive,
        tty: args.tty,
    };
    let command = Command {
        argv: args.command,
        env,
        cwd: args.workdir,
        tty: args.tty.then(window_size),
        stdin: args.interactive,
    };
    let unreachable = || match info.about.image.as_str() {
        super::NANO => format!("{} has no agent", args.vm),
        _ => format!("cannot run a command in {}", args.vm),
    };
    let agent = Agent::connect(&dir).with_context(unreachable)?;
    Session::start(agent, command, streams)?.wait()
}

/// Checks that a VM's guest can answer now.
///
/// # Errors
/// What the user has to do first.
pub(super) fn must_answer(info: &VmInfo) -> anyhow::Result<()> {
    let name = &info.about.name;
    match info.status.state {
        VmState::Running => Ok(()),
        VmState::Paused => bail!("{name} is paused: let it run on with `hyperfork resume {name}`"),
        VmState::Starting => bail!("{name} is not ready yet"),
        VmState::Stopped | VmState::Failed => bail!("{name} is not running"),
    }
}
