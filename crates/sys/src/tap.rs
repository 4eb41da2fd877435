//! TAP and TUN devices: network interfaces of the host whose other end is a descriptor.

use super::check;
use rustix::fs::{Mode, OFlags, open};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Bytes of `struct virtio_net_hdr_v1` before each frame.
pub const HEADER_LEN: usize = 12;

/// `_IOW('T', 202, int)` (linux/if_tun.h).
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
/// The request of ioctl(2) by which a TAP's offloads are chosen, `TUNSETOFFLOAD`:
/// `_IOW('T', 208, unsigned int)`.
pub const SET_OFFLOAD: u32 = 0x4004_54d0;
const TUNSETOFFLOAD: libc::Ioctl = SET_OFFLOAD as libc::Ioctl;
/// `_IOW('T', 216, int)`.
const TUNSETVNETHDRSZ: libc::Ioctl = 0x4004_54d8;

/// The offloads that the reader of a TAP supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// Frames whose checksum is still to be computed.
    pub checksum: bool,
    /// TCP over IPv4 that is still to be segmented.
    pub tso4: bool,
    /// TCP over IPv6 likewise.
    pub tso6: bool,
    /// TCP with congestion notification likewise.
    pub ecn: bool,
}

impl Offload {
    /// All of them.
    pub const ALL: Self = Self {
        checksum: true,
        tso4: true,
        tso6: true,
        ecn: true,
    };

    fn flags(self) -> libc::c_uint {
        let flag = |wanted, flag| if wanted { flag } else { 0 };
        flag(self.checksum, libc::TUN_F_CSUM)
            | flag(self.checksum && self.tso4, libc::TUN_F_TSO4)
            | flag(self.checksum && self.tso6, libc::TUN_F_TSO6)
            | flag(
                self.checksum && self.ecn && (self.tso4 || self.tso6),
                libc::TUN_F_TSO_ECN,
            )
    }
}

/// One queue of a TAP device, never blocking. Each read and write is one frame behind a
/// header of [`HEADER_LEN`] bytes.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    /// As last set; `None` for what is no TAP.
    offload: Option<Offload>,
}

impl Tap {
    /// Makes a device called `name` in the calling thread's network namespace, with
    /// everything offloaded. It lasts as long as the descriptor.
    ///
    /// # Errors
    /// The kernel's: no `CAP_NET_ADMIN`, no TUN driver, or the name is taken.
    pub fn create(name: &str) -> io::Result<Self> {
        let fd = device(name, libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR)?;
        let len = HEADER_LEN as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads one int, which outlives the call.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETVNETHDRSZ, &raw const len) })?;
        let mut tap = Self {
            fd,
            offload: Some(Offload::default()),
        };
        tap.set_offload(Offload::ALL)?;
        Ok(tap)
    }

    /// A TAP that another process has [created](Self::create).
    pub fn from_created(fd: OwnedFd) -> Self {
        Self {
            fd,
            offload: Some(Offload::ALL),
        }
    }

    /// Another descriptor that preserves frame boundaries, such as one end of a pair of datagram
    /// sockets, in place of a TAP.
    ///
    /// # Errors
    /// When it cannot be made non-blocking.
    pub fn from_socket(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { fd, offload: None })
    }

    /// Sets the offloads that frames may use that are read from now on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_offload(&mut self, offload: Offload) -> io::Result<()> {
        // The ioctl is skipped if possible: the kernel takes a lock for it that is often held for
        // long.
        if self.offload.is_none_or(|set| set == offload) {
            return Ok(());
        }
        let flags = libc::c_ulong::from(offload.flags());
        // SAFETY: TUNSETOFFLOAD takes a plain number.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), TUNSETOFFLOAD, flags) })?;
        self.offload = Some(offload);
        Ok(())
    }

    /// Reads a frame and returns its length with the header; `None` if there is none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        unless_blocked(rustix::io::read(&self.fd, frame))
    }

    /// Sends a frame; `None` when there is no room for it now.
    ///
    /// # Errors
    /// The kernel's; `InvalidInput` for a header that makes no sense to it.
    pub fn write(&self, frame: &[u8]) -> io::Result<Option<usize>> {
        unless_blocked(rustix::io::write(&self.fd, frame))
    }

    /// The same queue by another descriptor.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
            offload: self.offload,
        })
    }
}

/// Makes an interface called `name` in the calling thread's network namespace, whose packets
/// (IP, nothing around it) are read from and written to the descriptor, which never blocks.
///
/// # Errors
/// As [`Tap::create`].
pub fn create_tun(name: &str) -> io::Result<OwnedFd> {
    device(name, libc::IFF_TUN | libc::IFF_NO_PI)
}

fn device(name: &str, kind: libc::c_int) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = open("/dev/net/tun", flags, Mode::empty())?;
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().take(room).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = kind as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
    Ok(fd)
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn unless_blocked(result: rustix::io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(len) => Ok(Some(len)),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
