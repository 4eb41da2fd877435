//! What the device thread may ask of the host's kernel.

use crate::sys::pagemap;
use crate::sys::seccomp::{Allowed, Confinement};
use std::io;

/// Whether the devices open files by name, as a shared directory does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// They have all that they need open.
    None,
    /// They open, make, rename and remove what is below a directory that they have open.
    BelowShares,
}

/// Waiting, sockets that are there, and those that connections from the host come by;
/// what becomes of a disk's blocks.
const DEVICES: &[libc::c_long] = &[
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd2,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_getsockopt,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_statx,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
];

/// What 9p's messages come to.
const SHARES: &[libc::c_long] = &[
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_linkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_newfstatat,
    libc::SYS_openat2,
    libc::SYS_readlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
];

/// Of a TAP device (linux/if_tun.h).
const TUN_IOCTLS: u8 = b'T';

/// What a balloon's taking of free pages comes to.
const FREE_PAGES: &[u32] = &[pagemap::SCAN];

impl Names {
    /// # Errors
    /// As [`Confinement::new`].
    pub(super) fn confinement(self) -> io::Result<Confinement> {
        let calls: &[_] = match self {
            Self::None => &[DEVICES],
            Self::BelowShares => &[DEVICES, SHARES],
        };
        Confinement::new(&Allowed {
            calls,
            ioctls: &[TUN_IOCTLS],
            requests: FREE_PAGES,
            // By which the guest's connections reach the host.
            unix_sockets: true,
        })
    }
}
