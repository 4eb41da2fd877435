//! What PID 1 does before it serves the host.
//!
//! Nothing here is fatal: a guest without `/sys` is better than a kernel panic,
//! and the host sees a guest that does not become ready.

use crate::identify::Pid1;
use crate::listener::Listener;
use crate::log;
use crate::machine::Machine;
use crate::placement;
use crate::rehearsal;
use crate::server::Server;
use crate::sys::ioctl;
use rustix::fs::{Mode, OFlags, mkdir, open, symlink};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_remount};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::system::{RebootCommand, reboot};
use std::ffi::{CStr, OsString, c_int};
use std::os::fd::{AsFd, AsRawFd};

/// A file system every Linux program expects.
struct Mount {
    kind: &'static str,
    at: &'static str,
    flags: MountFlags,
    options: &'static CStr,
}

const HARMLESS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

const MOUNTS: [Mount; 7] = [
    Mount {
        kind: "proc",
        at: "/proc",
        flags: HARMLESS.union(MountFlags::NOEXEC),
        options: c"",
    },
    Mount {
        kind: "sysfs",
        at: "/sys",
        flags: HARMLESS.union(MountFlags::NOEXEC),
        options: c"",
    },
    // The kernel may have done this one (`DEVTMPFS_MOUNT`).
    Mount {
        kind: "devtmpfs",
        at: "/dev",
        flags: MountFlags::NOSUID,
        options: c"mode=0755",
    },
    // Group 5 is `tty`.
    Mount {
        kind: "devpts",
        at: "/dev/pts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        options: c"gid=5,mode=620,ptmxmode=666",
    },
    Mount {
        kind: "tmpfs",
        at: "/dev/shm",
        flags: HARMLESS,
        options: c"mode=1777",
    },
    Mount {
        kind: "tmpfs",
        at: "/run",
        flags: HARMLESS,
        options: c"mode=0755",
    },
    Mount {
        kind: "tmpfs",
        at: "/tmp",
        flags: HARMLESS,
        options: c"mode=1777",
    },
];

/// Links that shells and scripts expect in `/dev`.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Brings the guest up and serves the host, for ever. With `--listen` among the
/// arguments, the host is on Unix sockets instead of vsock.
pub(crate) fn run(arguments: &[OsString]) -> c_int {
    for file_system in &MOUNTS {
        complain(file_system.at, file_system.mount());
    }
    open_standard_streams();
    for (target, link) in LINKS {
        complain(link, unless_there(symlink(target, link)));
    }
    // Or the first look at each file is a write to the disk. Of this mount only.
    let unread = MountFlags::BIND | MountFlags::NOATIME;
    complain("/", mount_remount("/", unread, c""));
    complain("lo", loopback());
    // From now on ctrl-alt-del is a SIGINT for PID 1.
    complain("ctrl-alt-del", reboot(RebootCommand::CadOff));
    complain("processors", placement::keep_off_vsock());
    let listeners = match arguments.get(1) {
        Some(flag) if flag == "--listen" => rehearsal::unix_listeners(&arguments[2..]),
        _ => Listener::vsock().map(|listener| vec![listener]),
    };
    let listeners = listeners.unwrap_or_else(|error| {
        log::error(format_args!("the host cannot be served: {error}"));
        Vec::new()
    });
    match Server::new(listeners, Box::new(Pid1::new())) {
        Ok(server) => server.run(),
        Err(error) => {
            log::error(format_args!("signals cannot be watched: {error}"));
            Pid1::new().power_off();
            1
        }
    }
}

impl Mount {
    fn mount(&self) -> Result<(), Errno> {
        let mount = || mount(self.kind, self.at, self.kind, self.flags, self.options);
        let result = match mount() {
            Err(Errno::NOENT) => {
                mkdir(self.at, Mode::from_raw_mode(0o755))?;
                mount()
            }
            other => other,
        };
        match result {
            // It is mounted there.
            Err(Errno::BUSY) => Ok(()),
            other => other,
        }
    }
}

/// The kernel opens the console for PID 1, but not where there is none; programs'
/// streams must not end up as descriptors 0 to 2.
fn open_standard_streams() {
    loop {
        match open("/dev/null", OFlags::RDWR, Mode::empty()) {
            Ok(fd) if fd.as_raw_fd() <= 2 => std::mem::forget(fd),
            Ok(_) => return,
            Err(error) => return complain("/dev/null", Err(error)),
        }
    }
}

fn loopback() -> std::io::Result<()> {
    let any = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    ioctl::loopback_up(any.as_fd())
}

fn unless_there(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

fn complain<E: std::fmt::Display>(about: &str, result: Result<(), E>) {
    if let Err(error) = result {
        log::error(format_args!("{about}: {error}"));
    }
}
