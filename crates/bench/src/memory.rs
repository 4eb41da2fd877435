//! Reads how much memory the host has, and how much a process takes.

use std::fs;
use std::io;

/// The host's memory (proc_meminfo(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct HostMemory {
    pub(crate) total_mib: u64,
    /// What programs could have now, KiB.
    pub(crate) available_kib: u64,
}

/// This host's memory now; zeroes where it does not tell.
pub(crate) fn host() -> HostMemory {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name| text.lines().find_map(|line| kib(line, name)).unwrap_or(0);
    HostMemory {
        total_mib: field("MemTotal:") >> 10,
        available_kib: field("MemAvailable:"),
    }
}

/// A VM process's proportional set size: shared pages count by their share
/// (proc_pid_smaps(5)), KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Pss {
    /// Of everything.
    pub(crate) all_kib: u64,
    /// Of that, guest memory: pages the guest has touched since the VM began.
    pub(crate) guest_kib: u64,
}

/// How names of mappings of guest memory begin.
const GUEST_MEMORY: &str = "/memfd:hyperfork-ram";

impl Pss {
    /// Of a process.
    ///
    /// # Errors
    /// It is gone, or not ours.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        Ok(Self::read(&fs::read_to_string(format!(
            "/proc/{pid}/smaps"
        ))?))
    }

    fn read(smaps: &str) -> Self {
        let mut pss = Self::default();
        let mut is_guest = false;
        for line in smaps.lines() {
            match kib(line, "Pss:") {
                Some(kib) => {
                    pss.all_kib += kib;
                    pss.guest_kib += if is_guest { kib } else { 0 };
                }
                // Begins with addresses in lower-case digits; fields do not.
                None if line.starts_with(|c: char| !c.is_ascii_uppercase()) => {
                    is_guest = line.contains(GUEST_MEMORY);
                }
                None => {}
            }
        }
        pss
    }
}

/// `<name>   <number> kB`
fn kib(line: &str, name: &str) -> Option<u64> {
    line.strip_prefix(name)?
        .trim()
        .strip_suffix(" kB")?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_memory_is_told_from_the_rest_of_a_process() {
        let smaps = "\
5570-5580 r-xp 00000000 fe:01 123    /usr/bin/hyperfork
Size:                 64 kB
Pss:                  40 kB
Pss_Dirty:             8 kB
7f00-7f10 rw-p 00000000 00:01 1035    /memfd:hyperfork-ram (deleted)
Rss:                9000 kB
Pss:                 500 kB
7f10-7f20 rw-p 00000000 00:00 0
Pss:                   7 kB
VmFlags: rd wr mr mw me ac sd
";
        assert_eq!(
            Pss::read(smaps),
            Pss {
                all_kib: 547,
                guest_kib: 500
            }
        );
    }

    #[test]
    fn this_process_and_this_host_tell_their_memory() {
        let own = Pss::of(std::process::id()).unwrap();
        assert!(own.all_kib > 100 && own.guest_kib == 0, "{own:?}");
        let host = host();
        assert!(host.total_mib << 10 >= host.available_kib && host.available_kib > 0);
    }
}
