//! The verbs that act on several VMs.

use clap::Args;
use hyperfork_api::VmName;

/// Some VMs.
#[derive(Debug, Args)]
pub(crate) struct Vms {
    /// Which VMs
    #[arg(required = true, value_name = "VM")]
    pub(crate) vms: Vec<VmName>,
}

/// Shut VMs down
#[derive(Debug, Args)]
#[command(after_help = "Example: hyperfork stop -t 2 p p-1")]
pub(crate) struct Stop {
    /// End a guest that has not powered off after so many seconds
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) time: u32,
    #[command(flatten)]
    pub(crate) vms: Vms,
}

/// Remove VMs that have ended
#[derive(Debug, Args)]
#[command(after_help = "Example: hyperfork rm -f p p-1 p-2")]
pub(crate) struct Rm {
    /// Also those that are running: end them at once
    #[arg(short, long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) vms: Vms,
}
