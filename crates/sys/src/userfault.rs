//! Userfaultfd: the kernel reports accesses to a process's memory
//! (Documentation/admin-guide/mm/userfaultfd.rst). The monitor uses it to notice writes without
//! handling any fault (`UFFD_FEATURE_WP_ASYNC`, Linux 6.7): a page that was
//! [protected](super::pagemap::Pagemap::protect) shows afterwards whether it was written.
//!
//! A range of memory belongs to one userfaultfd at most. So a RAM has one userfaultfd for all
//! purposes.

use super::check;
use super::mapping::AddressRange;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// A userfaultfd.
#[derive(Debug)]
pub struct Userfault {
    fd: OwnedFd,
    faults: Faults,
}

/// Which faults a userfaultfd reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Faults {
    /// All: also those of the kernel, which is what KVM's accesses to guest memory are.
    Kernel,
    /// Those of the process's own code. That is enough to notice writes, which need no
    /// handling; missing pages could not be served.
    UserOnly,
}

/// Why there is no userfaultfd, or not for a range.
#[derive(Debug, thiserror::Error)]
pub enum UserfaultError {
    /// The kernel is built without it, or older than Linux 6.7.
    #[error("this host's kernel does not notice writes")]
    Unsupported(#[source] io::Error),
    /// The kernel keeps it from this process, as a filter of system calls does.
    #[error("this process may not have writes noticed")]
    Refused(#[source] io::Error),
    /// The range belongs to another userfaultfd.
    #[error("the memory is watched by another userfaultfd")]
    Busy(#[source] io::Error),
    /// Out of descriptors or memory.
    #[error("cannot have writes noticed")]
    Failed(#[source] io::Error),
}

impl UserfaultError {
    fn of(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSYS | libc::ENODEV | libc::ENOTTY | libc::EINVAL) => {
                Self::Unsupported(error)
            }
            Some(libc::EPERM | libc::EACCES) => Self::Refused(error),
            Some(libc::EBUSY) => Self::Busy(error),
            _ => Self::Failed(error),
        }
    }

    /// Whether it will be the same the next time.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Unsupported(_) | Self::Refused(_))
    }
}

impl From<UserfaultError> for io::Error {
    fn from(error: UserfaultError) -> Self {
        let (UserfaultError::Unsupported(source)
        | UserfaultError::Refused(source)
        | UserfaultError::Busy(source)
        | UserfaultError::Failed(source)) = &error;
        Self::new(source.kind(), error)
    }
}

/// Writes to a range are tracked while this lives.
#[derive(Debug)]
pub struct Watch {
    userfault: Arc<Userfault>,
    range: Arc<AddressRange>,
}

/// `struct uffdio_api` of linux/userfaultfd.h.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_range`.
#[repr(C)]
struct Span {
    start: u64,
    len: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Register {
    range: Span,
    mode: u64,
    ioctls: u64,
}

const API: u64 = 0xaa;
/// Protection also of memory that belongs to files in memory, as guest RAM does.
const FEATURE_WP_SHMEM: u64 = 1 << 12;
const FEATURE_WP_ASYNC: u64 = 1 << 15;
const MODE_WP: u64 = 1 << 1;
/// `UFFD_USER_MODE_ONLY`.
const USER_MODE_ONLY: libc::c_int = 1;

/// `USERFAULTFD_IOC_NEW`, of /dev/userfaultfd.
const NEW: libc::c_ulong = 0xaa00;
/// `_IOWR(0xaa, 0x3f, struct uffdio_api)`.
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
/// `_IOWR(0xaa, 0x00, struct uffdio_register)`.
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
/// `_IOR(0xaa, 0x01, struct uffdio_range)`.
const UFFDIO_UNREGISTER: libc::c_ulong = 0x8010_aa01;

impl Userfault {
    /// Opens one that reports all faults where the host allows that, and otherwise those of this
    /// process's own.
    ///
    /// # Errors
    /// [`UserfaultError`].
    pub fn open() -> Result<Self, UserfaultError> {
        Self::open_for(Faults::Kernel).or_else(|error| match error {
            UserfaultError::Refused(_) => Self::open_for(Faults::UserOnly),
            other => Err(other),
        })
    }

    fn open_for(faults: Faults) -> Result<Self, UserfaultError> {
        let fd = new(faults).map_err(UserfaultError::of)?;
        let mut api = Api {
            api: API,
            features: FEATURE_WP_SHMEM | FEATURE_WP_ASYNC,
            ioctls: 0,
        };
        // SAFETY: the argument is what the call wants, and lives across it.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, &mut api) })
            .map_err(UserfaultError::of)?;
        Ok(Self { fd, faults })
    }

    /// Which faults it reports.
    pub fn faults(&self) -> Faults {
        self.faults
    }

    /// Tracks writes to `range` once its pages are protected.
    ///
    /// # Errors
    /// [`UserfaultError::Busy`] when the range has another userfaultfd.
    pub fn watch(self: &Arc<Self>, range: &Arc<AddressRange>) -> Result<Watch, UserfaultError> {
        let mut register = Register {
            range: span(range),
            mode: MODE_WP,
            ioctls: 0,
        };
        // SAFETY: the argument is what the call wants, and lives across it. Writes to
        // protected pages go through as before.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), UFFDIO_REGISTER, &mut register) })
            .map_err(UserfaultError::of)?;
        Ok(Watch {
            userfault: self.clone(),
            range: range.clone(),
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut span = span(&self.range);
        // SAFETY: the argument is what the call wants, and lives across it. Should it fail,
        // writes are still tracked, which costs a little time.
        unsafe { libc::ioctl(self.userfault.fd.as_raw_fd(), UFFDIO_UNREGISTER, &mut span) };
    }
}

fn span(range: &AddressRange) -> Span {
    Span {
        start: range.base() as u64,
        len: range.len() as u64,
    }
}

/// Faults of the kernel are for users that may open the device, or have `CAP_SYS_PTRACE`
/// (or all, by the sysctl `vm.unprivileged_userfaultfd`).
fn new(faults: Faults) -> io::Result<OwnedFd> {
    let flags = match faults {
        Faults::Kernel => libc::O_CLOEXEC,
        Faults::UserOnly => libc::O_CLOEXEC | USER_MODE_ONLY,
    };
    let device = match faults {
        Faults::Kernel => File::open("/dev/userfaultfd").ok(),
        Faults::UserOnly => None,
    };
    let raw = match device {
        // SAFETY: the call takes flags and no pointers.
        Some(device) => unsafe { libc::ioctl(device.as_raw_fd(), NEW, flags) },
        // SAFETY: as above.
        None => unsafe { libc::syscall(libc::SYS_userfaultfd, flags) as libc::c_int },
    };
    let fd = check(raw)?;
    // SAFETY: a fresh descriptor that nothing else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::Mapping;
    use crate::memfd;

    #[test]
    fn a_range_has_one_userfaultfd_until_it_is_let_go() {
        let mut mapping = Mapping::reserve(1 << 20).unwrap();
        mapping
            .place_private(memfd::create("test", 1 << 20).unwrap())
            .unwrap();
        let [one, other] = [(); 2].map(|()| Userfault::open().map(Arc::new));
        let (one, other) = match (one, other) {
            (Ok(one), Ok(other)) => (one, other),
            // Before Linux 6.7, or where this process may not have one.
            (one, _) => return assert!(one.unwrap_err().is_final()),
        };
        let watch = one.watch(mapping.range()).unwrap();
        let refused = other.watch(mapping.range()).unwrap_err();
        assert!(matches!(refused, UserfaultError::Busy(_)));
        assert!(!refused.is_final());
        drop(watch);
        other.watch(mapping.range()).unwrap();
        one.watch(mapping.range()).unwrap();
    }

    #[test]
    fn where_the_kernels_faults_may_be_had_they_are() {
        let may = File::open("/dev/userfaultfd").is_ok();
        if let Ok(userfault) = Userfault::open() {
            assert!(userfault.faults() == Faults::Kernel || !may);
        }
        if let Ok(userfault) = Userfault::open_for(Faults::UserOnly) {
            assert_eq!(userfault.faults(), Faults::UserOnly);
        }
    }

    #[test]
    fn what_the_host_lacks_what_it_refuses_and_what_failed_are_told_apart() {
        let of = |code| UserfaultError::of(io::Error::from_raw_os_error(code));
        assert!(matches!(of(libc::ENOSYS), UserfaultError::Unsupported(_)));
        assert!(matches!(of(libc::EINVAL), UserfaultError::Unsupported(_)));
        assert!(matches!(of(libc::EPERM), UserfaultError::Refused(_)));
        assert!(matches!(of(libc::EBUSY), UserfaultError::Busy(_)));
        assert!(matches!(of(libc::EMFILE), UserfaultError::Failed(_)));
    }
}
