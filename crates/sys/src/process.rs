//! A handle to another process that never refers to a later process with the same PID (pidfd).

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::os::fd::OwnedFd;

/// Whether the process of this number was stopped (SIGSTOP). The number must still be the
/// process's: of a child that was not reaped, of a peer whose connection is open, or of a process
/// that holds a lock.
pub fn stands_still(pid: u32) -> bool {
    Stat::of(pid).is_some_and(|stat| stat.state == 'T')
}

/// The parent of the process of this number.
pub fn parent_of(pid: u32) -> Option<u32> {
    Stat::of(pid).map(|stat| stat.parent)
}

/// Whether the kernel is ending this process, or will as soon as the process notices that it was
/// killed.
pub fn is_ending(pid: u32) -> bool {
    const KILLED: u64 = 1 << (Signal::KILL.as_raw() - 1);
    // As the kernel's `include/linux/sched.h` has it.
    const PF_EXITING: u32 = 0x4;
    let is_killed = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        // Signals that are pending for the thread, and for the process.
        status.lines().any(|line| {
            let mask = ["SigPnd:", "ShdPnd:"]
                .iter()
                .find_map(|name| line.strip_prefix(name));
            let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
            mask.is_some_and(|mask| mask & KILLED != 0)
        })
    };
    let is_exiting = || Stat::of(pid).is_some_and(|stat| stat.flags & PF_EXITING != 0);
    // In this order: the signal is no longer pending when the process exits.
    is_killed() || is_exiting()
}

/// What `/proc/PID/stat` says of a process (proc(5)).
struct Stat {
    state: char,
    parent: u32,
    flags: u32,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The process's name, in parentheses, may contain any characters.
        let (_, rest) = stat.rsplit_once(") ")?;
        // state, ppid, pgrp, session, tty_nr, tpgid, flags
        let mut fields = rest.split(' ');
        Some(Self {
            state: fields.next()?.chars().next()?,
            parent: fields.next()?.parse().ok()?,
            flags: fields.nth(4)?.parse().ok()?,
        })
    }
}

/// A process (`pidfd_open(2)`).
#[derive(Debug)]
pub struct Process(OwnedFd);

impl Process {
    /// The process that has this number now.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self(pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// Asks it to end.
    ///
    /// # Errors
    /// The system's.
    pub fn terminate(&self) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.0, Signal::TERM)?)
    }

    /// Kills it, also if it is stopped.
    ///
    /// # Errors
    /// The system's.
    pub fn kill(&self) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.0, Signal::KILL)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, id};
    use std::time::Duration;

    #[test]
    fn of_a_process_is_known_who_started_it_whether_it_is_stopped_and_whether_it_ends() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = child.id();
        assert_eq!(parent_of(pid), Some(id()));
        assert!(!stands_still(pid) && !is_ending(pid));
        let process = Process::open(pid).unwrap();
        pidfd_send_signal(&process.0, Signal::STOP).unwrap();
        while !stands_still(pid) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!is_ending(pid));
        // From here on until it is reaped.
        process.kill().unwrap();
        assert!(is_ending(pid));
        child.wait().unwrap();
        assert!(!is_ending(pid) && parent_of(pid).is_none());
    }
}
