//! Describes the host and the program of a measurement.

use hyperfork_host::PoolConfig;
use hyperfork_vmm::kvm::{Host, HostKind, KvmError};
use procfs::{CpuInfo, Current};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;
use std::time::SystemTime;

/// Goes with every result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostRecord {
    /// Tells machines apart without naming them: a hash of the machine's own
    /// identifier.
    pub id: String,
    /// The processor's model.
    pub cpu: String,
    /// How many of it programs may use.
    pub cores: usize,
    /// All of the host's memory, MiB.
    pub memory_mib: u64,
    /// How the host runs guest code: `hardware` or `pvm`.
    pub kvm: String,
    /// The host kernel's release.
    pub kernel: String,
    /// HyperFork's version.
    pub version: String,
    /// The commit it was built from, with `+changes` if files had changed since.
    pub commit: String,
    /// `release`, or `debug` for a build without optimization.
    pub build: String,
    /// Whether files the guests need were in the page cache.
    pub state: State,
    /// How many shells the pool keeps at most; `null` in results without it.
    #[serde(default)]
    pub pool_max: Option<usize>,
    /// Whether the pool preloads them for clones of the VMs that are forked; `null` in results
    /// without it.
    #[serde(default)]
    pub primed: Option<bool>,
    /// When the measurement began, seconds since 1970.
    pub started_unix_s: u64,
    /// How busy the host was then: its load average over a minute.
    pub load_1min: f64,
}

/// What was in the host's page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Files are in the page cache; each cell had a round that was not recorded.
    Warm,
    /// The page cache was dropped before each sample.
    Cold,
}

impl HostRecord {
    /// This host and this program, now.
    ///
    /// # Errors
    /// When there is no KVM here.
    pub fn now(state: State, pool: PoolConfig) -> Result<Self, KvmError> {
        let uname = rustix::system::uname();
        let node = uname.nodename().to_string_lossy();
        let id = read("/etc/machine-id").unwrap_or_else(|| node.into_owned());
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Ok(Self {
            id: format!("{:016x}", fnv1a(id.trim().as_bytes())),
            cpu: processor().unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: crate::memory::host().total_mib,
            kvm: match Host::open()?.kind() {
                HostKind::Hardware => "hardware",
                HostKind::Pvm => "pvm",
            }
            .to_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: env!("HYPERFORK_COMMIT").to_owned(),
            build: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            }
            .to_owned(),
            state,
            pool_max: Some(pool.most),
            primed: Some(pool.preload),
            started_unix_s: since_1970.map_or(0, |since| since.as_secs()),
            load_1min: read("/proc/loadavg")
                .and_then(|text| text.split_whitespace().next()?.parse().ok())
                .unwrap_or(0.0),
        })
    }

    /// Whether figures of both may stand side by side: the same machine, with the same
    /// kernel.
    pub fn is_same_host(&self, other: &Self) -> bool {
        let host = |record: &Self| {
            let Self {
                id,
                cpu,
                cores,
                kvm,
                kernel,
                ..
            } = record.clone();
            (id, cpu, cores, kvm, kernel)
        };
        host(self) == host(other)
    }

    /// Whether the same program measured both in the same way.
    pub fn is_same_program(&self, other: &Self) -> bool {
        let program = |record: &Self| {
            let Self {
                version,
                commit,
                build,
                state,
                pool_max,
                primed,
                ..
            } = record.clone();
            (version, commit, build, state, pool_max, primed)
        };
        program(self) == program(other)
    }
}

impl fmt::Display for HostRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            cpu,
            cores,
            kvm,
            kernel,
            commit,
            build,
            primed,
            ..
        } = self;
        let unprimed = match primed {
            Some(false) => ", shells not preloaded",
            _ => "",
        };
        write!(
            f,
            "{cores} cores of {cpu}, KVM: {kvm}, Linux {kernel}, host {id}, commit {commit}, {build} build{unprimed}"
        )
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .filter(|text| !text.trim().is_empty())
}

fn processor() -> Option<String> {
    let cpus = CpuInfo::current().ok()?;
    cpus.model_name(0).map(str::to_owned)
}

/// Fowler, Noll and Vo's hash, variant 1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Some host.
    pub(crate) fn some_host() -> HostRecord {
        HostRecord {
            id: "h".to_owned(),
            cpu: "c".to_owned(),
            cores: 2,
            memory_mib: 1024,
            kvm: "hardware".to_owned(),
            kernel: "6.12".to_owned(),
            version: "0.1.0".to_owned(),
            commit: "abc".to_owned(),
            build: "release".to_owned(),
            state: State::Warm,
            pool_max: Some(128),
            primed: Some(true),
            started_unix_s: 0,
            load_1min: 0.0,
        }
    }

    #[test]
    fn another_kernel_is_another_host_and_another_day_is_not() {
        let host = some_host();
        let later = HostRecord {
            started_unix_s: 7,
            load_1min: 3.0,
            commit: "def".to_owned(),
            ..host.clone()
        };
        assert!(host.is_same_host(&later) && !host.is_same_program(&later));
        let unprimed = HostRecord {
            primed: Some(false),
            ..host.clone()
        };
        assert!(host.is_same_host(&unprimed) && !host.is_same_program(&unprimed));
        let updated = HostRecord {
            kernel: "6.18".to_owned(),
            ..host.clone()
        };
        assert!(!host.is_same_host(&updated) && host.is_same_program(&updated));
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
