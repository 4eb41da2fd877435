//! `fork` and `demo`.

use super::secrets::Secrets;
use super::values;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use hyperfork_api::{Strategy, VmName};
use std::time::Duration;

/// Most clones of one request.
const MAX_CLONES: i64 = 1024;

/// Clone a running VM
///
/// The clones are named <VM>-<k>, with the first free numbers. They have the
/// parent's memory as it was at one moment, every program in it included, and
/// run on from there; the parent runs on too. They do not have the parent's secrets.
#[derive(Debug, Args)]
#[command(after_help = "Example: hyperfork fork p -n 8 --json")]
pub(crate) struct Fork {
    /// The VM to clone
    pub(crate) vm: VmName,
    /// How many clones
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=MAX_CLONES))]
    pub(crate) count: u32,
    /// Name the clones <P>-<k> instead of after the VM
    #[arg(long, value_name = "P")]
    pub(crate) name_prefix: Option<VmName>,
    /// How memory and state are duplicated
    #[arg(long, value_name = "STRATEGY", default_value = "image", value_parser = strategy())]
    pub(crate) strategy: Strategy,
    #[command(flatten)]
    pub(crate) secrets: Secrets,
    /// Give up on clones that are not ready after this long [default: that of the VM]
    #[arg(long, value_name = "TIME", value_parser = values::timeout)]
    pub(crate) ready_timeout: Option<Duration>,
    /// Keep the clones that come to life even if others do not; otherwise it is all or none.
    /// The exit status is 1 if one is missing, and each that is has a line on standard error
    #[arg(long)]
    pub(crate) best_effort: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Show no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

fn strategy() -> impl TypedValueParser<Value = Strategy> {
    use clap::builder::PossibleValue;
    let values = [
        PossibleValue::new("image").help("Freeze memory into an image that new processes map"),
        PossibleValue::new("process-fork").help("fork(2) the VM's process, as the HyperFork paper"),
    ];
    PossibleValuesParser::new(values).map(|value| match &*value {
        "process-fork" => Strategy::ProcessFork,
        _ => Strategy::Image,
    })
}

/// Boot a guest, fork it while it works, and have each clone answer
///
/// With --guest python a Linux guest runs a Python program that imports numpy and
/// builds a search index; its clones answer questions with that index, in that
/// process. The first run makes the image, which takes minutes; later ones do
/// not. With --guest nano the embedded guest takes seconds on any KVM host.
#[derive(Debug, Args)]
#[command(after_help = "Example: hyperfork demo --guest nano -n 8")]
pub(crate) struct Demo {
    /// What to boot
    #[arg(long, value_enum, default_value_t = DemoGuest::Python)]
    pub(crate) guest: DemoGuest,
    /// How many clones
    #[arg(short = 'n', long, value_name = "N", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(1..=MAX_CLONES))]
    pub(crate) count: u32,
}

/// The demonstration's guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DemoGuest {
    /// The embedded guest, without a kernel
    Nano,
    /// Linux with Python and numpy
    Python,
}
