//! The seccomp filter of a vCPU thread.

use crate::kvm::requests;
use crate::sys::seccomp::{Allowed, Call, Confinement, Request, SEND, calls};
use crate::sys::{pagemap, tap};
use std::io;

/// System calls of device register writes: a vsock driver that resets its device closes the
/// connections of the driver before it.
const DEVICES: &[&[Call]] = &[calls![SYS_recvfrom SYS_shutdown], &[SEND]];

/// A virtio-net driver negotiates offloads on the vCPU that it runs on.
const OFFLOAD: Request = ("TUNSETOFFLOAD", tap::SET_OFFLOAD);

/// A vCPU thread helps with a capture.
const HELPING: Request = ("PAGEMAP_SCAN", pagemap::SCAN);

const ALLOWED: Allowed = Allowed {
    calls: DEVICES,
    requests: &[&requests::OF_A_VCPU, &[OFFLOAD, HELPING]],
};

/// # Errors
/// As [`Confinement::new`].
pub(super) fn new() -> io::Result<Confinement> {
    Confinement::new(&ALLOWED)
}

#[cfg(test)]
mod tests;
