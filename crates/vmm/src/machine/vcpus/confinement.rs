//! What a vCPU's thread may ask of the host's kernel.

use crate::kvm::requests;
use crate::sys::seccomp::{Allowed, Call, Confinement, Request, SEND, calls};
use crate::sys::{pagemap, tap};
use std::io;

/// What a driver's writes to the registers of a device come to: one that starts anew ends the
/// connections of its predecessor.
const DEVICES: &[&[Call]] = &[calls![SYS_recvfrom SYS_shutdown], &[SEND]];

/// A driver that chooses its card's offloads does so on the thread of the vCPU it runs on.
const OFFLOAD: Request = ("TUNSETOFFLOAD", tap::SET_OFFLOAD);

/// What its helping with a capture comes to.
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
