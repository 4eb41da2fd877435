//! Which network a VM gets.

use crate::args::{Net, Run};
use crate::ui;
use anyhow::bail;
use hyperfork_api::{NetKind, NetMode, Network};
use hyperfork_vmm::net;

/// The network that was asked for, or, where nothing was, the one this host allows.
///
/// # Errors
/// This host does not allow what was asked for.
pub(super) fn wanted(args: &Run) -> anyhow::Result<Option<Network>> {
    let mode = match args.net {
        Some(Net::None) => return Ok(None),
        Some(Net::Same) => NetMode::Same,
        Some(Net::Own) | None => NetMode::Own,
    };
    match net::available(mode) {
        Ok(()) => Ok(Some(Network {
            kind: NetKind {
                mode,
                egress: args.egress()?,
            },
            ports: args.ports.clone(),
            bytes_per_s: args.net_rate.map(|rate| rate.0),
        })),
        Err(reason) if args.net.is_some() || args.asks_for_network() => {
            bail!(
                "this VM cannot have a network: {reason}; without one (--net none), exec, cp, logs and fork work all the same"
            )
        }
        Err(reason) => {
            ui::note(&format!(
                "no network: {reason}; exec, cp, logs and fork work without one (--net none)"
            ));
            Ok(None)
        }
    }
}
