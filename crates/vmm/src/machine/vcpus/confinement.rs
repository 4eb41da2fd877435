//! What a vCPU's thread may ask of the host's kernel.

use crate::sys::seccomp::{Allowed, Confinement};
use std::io;

/// KVM's (linux/kvm.h), and a TAP device's (linux/if_tun.h): a driver that chooses its
/// card's offloads does so on the thread of the vCPU it runs on.
const IOCTLS: &[u8] = &[0xae, b'T'];

/// What a driver's writes to the registers of a device come to.
const DEVICES: &[libc::c_long] = &[libc::SYS_epoll_ctl, libc::SYS_shutdown];

/// # Errors
/// As [`Confinement::new`].
pub(super) fn new() -> io::Result<Confinement> {
    Confinement::new(&Allowed {
        calls: &[DEVICES],
        ioctls: IOCTLS,
        unix_sockets: false,
    })
}
