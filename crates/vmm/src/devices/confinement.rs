//! The seccomp filter of the device thread.

use crate::sys::seccomp::{Allowed, Call, Confinement, Request, SEND, call, calls, exactly};
use crate::sys::{hole, pagemap, tap};
use std::io;

/// Whether the devices open files by name, as a shared directory does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileAccess {
    /// They use only descriptors that are open already.
    None,
    /// They open, make, rename and remove files below a directory that is open already.
    BelowShares,
}

/// Waiting, and sockets that are open already.
const ANY: &[Call] = calls![
    SYS_accept4 SYS_connect SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_epoll_wait
    SYS_getsockopt SYS_lseek SYS_recvfrom SYS_shutdown SYS_statx SYS_timerfd_settime
];

/// Discarding a disk's blocks; duplicates of descriptors; sockets that connect the guest's vsock
/// to the host.
const SOME: &[Call] = &[
    SEND,
    call!(SYS_fallocate, &[&[hole::PUNCH]]),
    call!(
        SYS_fcntl,
        &[&[exactly!(1, F_DUPFD_CLOEXEC)], &[exactly!(1, F_GETFL)]]
    ),
    call!(SYS_socket, &[&[exactly!(0, AF_UNIX)]]),
];

/// The requests of 9p.
const SHARES: &[Call] = calls![
    SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_fdatasync SYS_fstat SYS_fstatfs SYS_fsync
    SYS_getdents64 SYS_linkat SYS_mkdirat SYS_mknodat SYS_newfstatat SYS_openat2 SYS_readlinkat
    SYS_renameat SYS_renameat2 SYS_symlinkat SYS_unlinkat SYS_utimensat
];

/// Offloads of a TAP device, sockets that do not block, and free pages reported to the balloon.
const REQUESTS: &[Request] = &[
    ("TUNSETOFFLOAD", tap::SET_OFFLOAD),
    ("FIONBIO", libc::FIONBIO as u32),
    ("PAGEMAP_SCAN", pagemap::SCAN),
];

impl FileAccess {
    fn allowed(self) -> Allowed {
        Allowed {
            calls: match self {
                Self::None => &[ANY, SOME],
                Self::BelowShares => &[ANY, SOME, SHARES],
            },
            requests: &[REQUESTS],
        }
    }

    /// # Errors
    /// As [`Confinement::new`].
    pub(super) fn confinement(self) -> io::Result<Confinement> {
        Confinement::new(&self.allowed())
    }
}

#[cfg(test)]
mod tests;
