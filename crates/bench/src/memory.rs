//! Reads how much memory the host has, and how much a process takes.

use procfs::process::{MMapPath, MemoryMaps, Process};
use procfs::{Current, Meminfo, ProcResult};

/// The host's memory (proc_meminfo(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct HostMemory {
    pub(crate) total_mib: u64,
    /// What programs could have now, KiB.
    pub(crate) available_kib: u64,
}

/// This host's memory now; zeroes where it does not tell.
pub(crate) fn host() -> HostMemory {
    let told = Meminfo::current().map(|told| HostMemory {
        total_mib: told.mem_total >> 20,
        available_kib: told.mem_available.unwrap_or(0) >> 10,
    });
    told.unwrap_or_default()
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
const GUEST_MEMORY: &[u8] = b"/memfd:hyperfork-ram";

impl Pss {
    /// Of a process.
    ///
    /// # Errors
    /// It is gone, or not ours.
    pub(crate) fn of(pid: u32) -> ProcResult<Self> {
        let process = Process::new(pid.cast_signed())?;
        Ok(Self::sum(&process.smaps()?))
    }

    fn sum(mappings: &MemoryMaps) -> Self {
        let mut pss = Self::default();
        for mapping in mappings {
            let kib = mapping.extension.map.get("Pss").map_or(0, |pss| pss >> 10);
            pss.all_kib += kib;
            if is_guest_memory(&mapping.pathname) {
                pss.guest_kib += kib;
            }
        }
        pss
    }
}

fn is_guest_memory(path: &MMapPath) -> bool {
    let MMapPath::Path(path) = path else {
        return false;
    };
    path.as_os_str()
        .as_encoded_bytes()
        .starts_with(GUEST_MEMORY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use procfs::FromRead;

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
            Pss::sum(&MemoryMaps::from_read(smaps.as_bytes()).unwrap()),
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
