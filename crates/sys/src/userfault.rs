//! Noticing writes to memory (Documentation/admin-guide/mm/userfaultfd.rst,
//! `UFFD_FEATURE_WP_ASYNC`): a page that is [protected](super::pagemap::Pagemap::protect)
//! tells afterwards that it was written, and nobody has to handle a fault. Linux 6.7.

use super::check;
use super::mapping::Mapping;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Notices writes as long as it lives.
#[derive(Debug)]
pub struct Userfault(OwnedFd);

/// `struct uffdio_api` of linux/userfaultfd.h.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

const API: u64 = 0xaa;
/// Protection also of memory that belongs to files in memory, as guest RAM does.
const FEATURE_WP_SHMEM: u64 = 1 << 12;
const FEATURE_WP_ASYNC: u64 = 1 << 15;
const MODE_WP: u64 = 1 << 1;

/// `USERFAULTFD_IOC_NEW`, of /dev/userfaultfd.
const NEW: libc::c_ulong = 0xaa00;
/// `_IOWR(0xaa, 0x3f, struct uffdio_api)`.
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
/// `_IOWR(0xaa, 0x00, struct uffdio_register)`.
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;

impl Userfault {
    /// Has writes to `mapping` noticed once its pages are protected.
    ///
    /// # Errors
    /// When the kernel has no such thing, or keeps it from this user.
    pub fn watch(mapping: &Mapping) -> io::Result<Self> {
        let fault = Self(open()?);
        let mut api = Api {
            api: API,
            features: FEATURE_WP_SHMEM | FEATURE_WP_ASYNC,
            ioctls: 0,
        };
        // SAFETY: the argument is what the call wants, and lives across it.
        check(unsafe { libc::ioctl(fault.0.as_raw_fd(), UFFDIO_API, &mut api) })?;
        let mut register = Register {
            start: mapping.base() as u64,
            len: mapping.len() as u64,
            mode: MODE_WP,
            ioctls: 0,
        };
        // SAFETY: as above. Writes to protected pages go through as before.
        check(unsafe { libc::ioctl(fault.0.as_raw_fd(), UFFDIO_REGISTER, &mut register) })?;
        Ok(fault)
    }
}

/// By the device where that may be opened, else by the system call, which unprivileged
/// users may use only for their own faults; here nobody handles any.
fn open() -> io::Result<OwnedFd> {
    const USER_MODE_ONLY: libc::c_int = 1;
    let raw = match std::fs::File::open("/dev/userfaultfd") {
        // SAFETY: the call takes flags and no pointers.
        Ok(device) => unsafe { libc::ioctl(device.as_raw_fd(), NEW, libc::O_CLOEXEC) },
        // SAFETY: as above.
        Err(_) => unsafe {
            libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | USER_MODE_ONLY) as libc::c_int
        },
    };
    let fd = check(raw)?;
    // SAFETY: a fresh descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
