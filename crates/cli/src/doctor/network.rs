//! The network: whether VMs can have one, and how far it reaches.

use super::Check;
use crate::config;
use hyperfork_api::NetMode;
use hyperfork_host::Program;

/// What the network of VMs that run `program` is like on this host.
pub(super) fn check(program: &Program) -> Check {
    const NAME: &str = "network";
    let setup = match config::network(program) {
        Ok(setup) => setup,
        Err(error) => {
            return Check::warning(
                NAME,
                format!("VMs have none: {error:#}"),
                "set HYPERFORK_NET_POOL right",
            );
        }
    };
    if let Err(reason) = hyperfork_net::available(&setup, NetMode::Own) {
        return match hyperfork_net::available(&setup, NetMode::User) {
            Ok(()) => Check::warning(
                NAME,
                format!(
                    "VMs have the one without privileges (--net user): guests connect by TCP and UDP to what this host reaches and are reached by published ports, not by address, and cannot ping: {reason}"
                ),
                "run hyperfork as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN, for --net own and same",
            ),
            Err(unprivileged) => Check::warning(
                NAME,
                format!(
                    "VMs have none, and are reached over vsock only (exec, cp, logs, fork): {reason}; {unprivileged}"
                ),
                "run hyperfork as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN; or allow user namespaces and /dev/net/tun; or say --net none",
            ),
        };
    }
    let reach = "each VM has a network of its own, reached from this host and by published ports";
    if !hyperfork_net::host_translates(&setup.pool) {
        return Check::warning(
            NAME,
            format!("{reach}; guests reach this host alone: its kernel translates no addresses"),
            hyperfork_net::NF_TABLES,
        );
    }
    match hyperfork_net::host_forwards() {
        true => Check::ok(
            NAME,
            format!("{reach}; guests reach what this host reaches"),
        ),
        false => Check::warning(
            NAME,
            format!("{reach}; guests reach this host alone: it does not forward packets"),
            "sudo sysctl -w net.ipv4.ip_forward=1, or --net user, if guests are to reach the world",
        ),
    }
}
