//! What a vCPU's thread may ask of the host's kernel.

use crate::sys::pagemap;
use crate::sys::seccomp::{Allowed, Confinement};
use std::io;

/// KVM's (linux/kvm.h), and a TAP device's (linux/if_tun.h): a driver that chooses its
/// card's offloads does so on the thread of the vCPU it runs on.
const IOCTLS: &[u8] = &[0xae, b'T'];

/// What its helping with a capture comes to.
const HELPING: &[u32] = &[pagemap::SCAN];

/// What a driver's writes to the registers of a device come to.
const DEVICES: &[libc::c_long] = &[libc::SYS_epoll_ctl, libc::SYS_shutdown];

/// # Errors
/// As [`Confinement::new`].
pub(super) fn new() -> io::Result<Confinement> {
    Confinement::new(&Allowed {
        calls: &[DEVICES],
        ioctls: IOCTLS,
        requests: HELPING,
        unix_sockets: false,
    })
}
