//! The kinds of virtio devices that a machine can have (virtio 1.2, chapter 5).

/// A kind of device.
#[derive(Debug, PartialEq, Eq)]
pub struct DeviceKind {
    /// What its records are called.
    pub name: &'static str,
    /// How many rings (virtqueues) it has.
    pub rings: u8,
    /// Whether a machine can have more than one.
    pub many: bool,
}

const fn one(name: &'static str, rings: u8) -> DeviceKind {
    DeviceKind {
        name,
        rings,
        many: false,
    }
}

const fn many(name: &'static str, rings: u8) -> DeviceKind {
    DeviceKind {
        many: true,
        ..one(name, rings)
    }
}

/// Disks: one ring of requests.
pub const BLOCK: DeviceKind = many("virtio-block", 1);
/// A console: receive and transmit of its one port.
pub const CONSOLE: DeviceKind = one("virtio-console", 2);
/// A socket device: receive, transmit, events.
pub const VSOCK: DeviceKind = one("virtio-vsock", 3);
/// An entropy source: requests.
pub const RNG: DeviceKind = one("virtio-rng", 1);
/// A balloon: inflate, deflate, free page reports.
pub const BALLOON: DeviceKind = one("virtio-balloon", 3);
/// A network device: receive and transmit.
pub const NET: DeviceKind = one("virtio-net", 2);
/// Shared directories: requests.
pub const P9: DeviceKind = many("virtio-9p", 1);

/// All kinds, in the order in which a machine's slots have them.
pub const IN_ORDER: [DeviceKind; 7] = [BLOCK, CONSOLE, VSOCK, RNG, BALLOON, NET, P9];
