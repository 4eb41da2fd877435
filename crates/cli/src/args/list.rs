//! Verbs that only look.

use clap::Args;
use hyperfork_api::VmName;

/// Show what this host can do, and what to fix
///
/// Exits with status 1 where VMs cannot run at all.
#[derive(Debug, Args)]
#[command(after_help = "Example: hyperfork doctor --json")]
pub(crate) struct Doctor {
    /// Print the findings as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// List VMs
#[derive(Debug, Args)]
#[command(after_help = "Example: hyperfork ps -a --json")]
pub(crate) struct Ps {
    /// Also those that have ended
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Print the list as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print names only
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// Print all there is to know about a VM, as JSON
#[derive(Debug, Args)]
#[command(after_help = "Example: hyperfork inspect p")]
pub(crate) struct Inspect {
    /// Print the VM's token instead, which its guest's root finds in /run/hyperfork/token: by
    /// it one that claims to be this VM is known
    #[arg(long)]
    pub(crate) token: bool,
    /// The VM
    pub(crate) vm: VmName,
}

/// Print what happens to VMs, as it happens
///
/// Of the named ones, or of all: started, ready, forked, paused, resumed, exited (the main
/// program), stopped, failed, removed. VMs need not be there yet. It goes on until it is
/// interrupted.
#[derive(Debug, Args)]
#[command(after_help = "Example: hyperfork events --json p")]
pub(crate) struct Events {
    /// Print each event as a line of JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Which VMs [default: all]
    #[arg(value_name = "VM")]
    pub(crate) vms: Vec<VmName>,
}

/// Print the output of a VM's main program
///
/// For a guest that has none, its console. The newest MiB or two are kept.
#[derive(Debug, Args)]
#[command(after_help = "Example: hyperfork logs -f p")]
pub(crate) struct Logs {
    /// Go on until the VM ends
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// The guest's console instead
    #[arg(long)]
    pub(crate) console: bool,
    /// The VM
    pub(crate) vm: VmName,
}

/// Show who was forked from whom, and the memory each shares and has of its own
#[derive(Debug, Args)]
#[command(after_help = "Example: hyperfork tree")]
pub(crate) struct Tree {
    /// Print the tree as JSON
    #[arg(long)]
    pub(crate) json: bool,
}
