//! What each verb does. Each gives an exit status or an error.

mod bench;
mod cp;
mod exec;
mod fork;
mod image;
mod inspect;
mod launch;
mod logs;
mod network;
mod ps;
mod run;
mod tree;
mod vms;

pub(crate) use self::fork::fork as fork_vm;
pub(crate) use self::image::ensure as ensure_image;
pub(crate) use self::launch::{boot, free_name_like, host_memory};
pub(crate) use self::run::{NANO, linux_from};
pub(crate) use self::vms::remove_by_force;

use crate::args::Verb;
use crate::{demo, doctor};
use std::time::Duration;

/// A time as requests have it.
fn milliseconds(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}

/// Does what the verb says.
///
/// # Errors
/// Why it could not be done.
pub(crate) fn run(verb: Verb) -> anyhow::Result<u8> {
    match verb {
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Image(args) => image::run(args.verb),
        Verb::Run(args) => run::run(args),
        Verb::Ps(args) => ps::run(&args),
        Verb::Inspect(args) => inspect::run(&args),
        Verb::Logs(args) => logs::run(&args),
        Verb::Pause(args) => vms::pause(&args),
        Verb::Resume(args) => vms::resume(&args),
        Verb::Stop(args) => vms::stop(&args),
        Verb::Rm(args) => vms::rm(&args),
        Verb::Exec(args) => exec::run(args),
        Verb::Cp(args) => cp::run(args),
        Verb::Fork(args) => fork::run(args),
        Verb::Tree(args) => tree::run(&args),
        Verb::Bench(args) => bench::run(args),
        Verb::Demo(args) => demo::run(&args),
    }
}
