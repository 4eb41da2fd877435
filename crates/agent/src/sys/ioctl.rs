//! The ioctls that rustix does not wrap.

use super::check;
use hyperfork_api::Identity;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `_IOW('R', 0x03, int[2])` (linux/random.h).
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
/// `_IO('R', 0x07)`.
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// `struct rand_pool_info` (linux/random.h) with a seed of ours.
#[repr(C)]
struct Entropy {
    bits: libc::c_int,
    bytes: libc::c_int,
    seed: [u8; Identity::SEED_LEN],
}

/// Mixes a seed into the kernel's generator, credits it in full, and has every
/// CPU's generator start from it at once (random(4)).
///
/// # Errors
/// The kernel's: without `CAP_SYS_ADMIN`.
pub(crate) fn reseed(random: BorrowedFd<'_>, seed: [u8; Identity::SEED_LEN]) -> io::Result<()> {
    let entropy = Entropy {
        bits: 8 * Identity::SEED_LEN as libc::c_int,
        bytes: Identity::SEED_LEN as libc::c_int,
        seed,
    };
    // SAFETY: the kernel reads the two numbers and then `bytes` bytes, all of
    // them inside `entropy`.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const entropy) })?;
    // SAFETY: takes no argument.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) })?;
    Ok(())
}

/// Brings the loopback interface up; the kernel then gives it 127.0.0.1/8 by
/// itself (netdevice(7)).
///
/// # Errors
/// The kernel's.
pub(crate) fn loopback_up(any_inet_socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the kernel reads one `ifreq`, which outlives the call.
    check(unsafe {
        libc::ioctl(
            any_inet_socket.as_raw_fd(),
            libc::SIOCSIFFLAGS,
            &raw const request,
        )
    })?;
    Ok(())
}
