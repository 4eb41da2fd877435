//! Choosing a VM's network.

use crate::args::{Net, Run};
use crate::ui;
use anyhow::bail;
use hyperfork_api::{NetKind, NetMode, Network};
use hyperfork_net::Setup;

/// The network that was asked for, or else the best one that this host allows.
///
/// # Errors
/// This host does not allow what was asked for.
pub(super) fn wanted(args: &Run, setup: &Setup) -> anyhow::Result<Option<Network>> {
    let mode = match args.net {
        Some(Net::None) => return Ok(None),
        Some(Net::Own) => asked_for(setup, NetMode::Own)?,
        Some(Net::Same) => asked_for(setup, NetMode::Same)?,
        Some(Net::User) => asked_for(setup, NetMode::User)?,
        None => match best(setup, args.asks_for_network())? {
            Some(mode) => mode,
            None => return Ok(None),
        },
    };
    Ok(Some(Network {
        kind: NetKind {
            mode,
            egress: args.egress()?,
        },
        ports: args.ports.clone(),
        bytes_per_s: args.net_rate.map(|rate| rate.0),
    }))
}

fn asked_for(setup: &Setup, mode: NetMode) -> anyhow::Result<NetMode> {
    match (hyperfork_net::available(setup, mode), mode) {
        (Ok(()), mode) => Ok(mode),
        (Err(reason), NetMode::User) => bail!(
            "this VM cannot have a network: {reason}; without one (--net none), exec, cp, logs and fork work all the same"
        ),
        (Err(reason), _) => bail!(
            "this VM cannot have this network: {reason}; try --net user, or --net none, with which exec, cp, logs and fork work all the same"
        ),
    }
}

/// The best mode that the host allows: a network of its own, else the unprivileged one, else
/// none, unless a network is `needed`.
fn best(setup: &Setup, needed: bool) -> anyhow::Result<Option<NetMode>> {
    let Err(reason) = hyperfork_net::available(setup, NetMode::Own) else {
        return Ok(Some(NetMode::Own));
    };
    match hyperfork_net::available(setup, NetMode::User) {
        Ok(()) => {
            ui::note(&format!(
                "network without privileges (--net user): TCP, UDP and published ports, the VM has no address of this host's; {reason}"
            ));
            Ok(Some(NetMode::User))
        }
        Err(unprivileged) if needed => bail!(
            "this VM cannot have a network: {reason}; {unprivileged}; without one (--net none), exec, cp, logs and fork work all the same"
        ),
        Err(unprivileged) => {
            ui::note(&format!(
                "no network: {reason}; {unprivileged}; exec, cp, logs and fork work without one (--net none)"
            ));
            Ok(None)
        }
    }
}
