//! The demonstration: boot a guest, clone it while it works, have each clone
//! prove that it is one.

mod family;
mod guest;
mod nano;
mod python;
mod report;

use crate::args::{Demo, DemoGuest};
use crate::config;
use crate::exit;
use crate::interrupt::Interrupt;
use crate::ui::Progress;
use anyhow::Context;
use hyperfork_host::Config;
use hyperfork_vmm::kvm::Host;

/// What every step of the demonstration has at hand.
#[derive(Debug)]
struct Stage {
    host: Config,
    progress: Progress,
    interrupt: Interrupt,
}

/// Shows it.
///
/// # Errors
/// Something does not work here. Nothing is left of the VMs.
pub(crate) fn run(args: &Demo) -> anyhow::Result<u8> {
    // Without KVM, images need not be made first.
    Host::open()?;
    let stage = Stage {
        interrupt: Interrupt::catch().context("cannot catch signals")?,
        host: config::host()?,
        progress: Progress::unless(false),
    };
    let shown = match args.guest {
        DemoGuest::Nano => nano::show(&stage, args.count),
        DemoGuest::Python => python::show(&stage, args.count),
    };
    shown.map_err(|error| stage.interrupt.explains(error))?;
    Ok(exit::OK)
}
