//! The configuration that is the same inside every VM's namespace.

use super::address::HOST_PREFIX;
use hyperfork_api::Mac;
use hyperfork_netlink::Batch;
use hyperfork_netlink::route::Net;
use std::fs;
use std::io;
use std::net::Ipv4Addr;

/// The namespace's interface to the guest and to the host.
pub(super) const TO_GUEST: &str = "tap0";
pub(super) const TO_HOST: &str = "up0";

/// All addresses.
pub(super) const EVERYWHERE: Net = (Ipv4Addr::UNSPECIFIED, 0);

/// The guest's way out, the same in all namespaces: a clone has it from its parent, and no
/// guest ever sends an ARP request for it. Link-local, so no other host has it (RFC 3927).
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
pub(super) const GATEWAY_MAC: Mac = Mac([0x02, b'H', 0, 0, 0, 1]);

/// Settings, and what they are.
const SETTINGS: [(&str, &str); 5] = [
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/rp_filter", "1"),
    ("ipv4/conf/default/rp_filter", "1"),
];

/// Sets the calling thread's namespace up: it forwards packets, drops those with a source
/// that does not belong where they come from, and knows no IPv6.
pub(super) fn set_up() -> io::Result<()> {
    for (setting, value) in SETTINGS {
        // Where there is no IPv6, there is nothing to switch off.
        let written = fs::write(format!("/proc/sys/net/{setting}"), value);
        if let Err(error) = written
            && !(setting.starts_with("ipv6") && error.kind() == io::ErrorKind::NotFound)
        {
            return Err(error);
        }
    }
    Ok(())
}

/// The namespace's end of the guest's cable.
pub(super) fn connect_guest(batch: &mut Batch, to_guest: u32, guest: Ipv4Addr) {
    batch
        .mac(to_guest, GATEWAY_MAC.0)
        .address(to_guest, (GATEWAY, HOST_PREFIX))
        .up(to_guest)
        .link_to((guest, HOST_PREFIX), to_guest)
        .neighbour(to_guest, guest, Mac::of(guest).0);
}
