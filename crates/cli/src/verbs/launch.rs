//! Booting a VM, and choosing its name.

use crate::interrupt::Interrupt;
use crate::ui::Progress;
use anyhow::{Context, anyhow, bail};
use hyperfork_api::{Bytes, Code, Secrets, VmInfo, VmName, VmSpec};
use hyperfork_host::{Config, LaunchError, RunDir, launch};
use procfs::{Current, Meminfo};
use std::hash::{BuildHasher, RandomState};

/// Boots a VM and waits until it is ready.
///
/// # Errors
/// It does not start, does not become ready, or a signal interrupts. Nothing is left of it then.
pub(crate) fn boot(
    host: &Config,
    spec: &VmSpec,
    secrets: Secrets,
    progress: Progress,
    interrupt: &Interrupt,
) -> anyhow::Result<VmInfo> {
    fits_the_host(spec.memory)?;
    let step = progress.step(&format!("booting {}", spec.name));
    let launched = launch(host, spec, secrets)
        .and_then(|launch| launch.wait_ready_while(|| !interrupt.is_set()));
    drop(step);
    launched.map_err(|error| interrupt.explains(with_name(&spec.name, error)))
}

/// The error with the VM's name, where it was written to be told after it.
fn with_name(name: &VmName, error: LaunchError) -> anyhow::Error {
    match error {
        LaunchError::Failed(error) if error.code == Code::NotRunning => {
            anyhow!("{name} did not become ready: {error}")
        }
        error => error.into(),
    }
}

fn fits_the_host(memory: Bytes) -> anyhow::Result<()> {
    let host = host_memory()?;
    if memory > host.total {
        bail!(
            "{memory} is more memory than this host has ({}MiB): ask for less with --memory",
            host.total.as_mib()
        );
    }
    Ok(())
}

/// A host's memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostMemory {
    /// All of it.
    pub(crate) total: Bytes,
    /// The memory that programs could get now.
    pub(crate) available: Bytes,
}

/// This host's memory (proc_meminfo(5)).
///
/// # Errors
/// The kernel does not report it.
pub(crate) fn host_memory() -> anyhow::Result<HostMemory> {
    let told = Meminfo::current().context("cannot read /proc/meminfo")?;
    let available = told.mem_available;
    let available = available.context("/proc/meminfo does not tell this host's memory")?;
    Ok(HostMemory {
        total: Bytes(told.mem_total),
        available: Bytes(available),
    })
}

/// A name of two words that no VM has.
///
/// # Errors
/// There is no such name left, which takes thousands of VMs.
pub(crate) fn free_name(run_dir: &RunDir) -> anyhow::Result<VmName> {
    for _ in 0..1000 {
        // Every `RandomState` has a new seed.
        let random = RandomState::new().hash_one(0) as usize;
        let (adjective, noun) = (
            ADJECTIVES[random % ADJECTIVES.len()],
            NOUNS[random / ADJECTIVES.len() % NOUNS.len()],
        );
        let name = VmName::new(format!("{adjective}-{noun}"))?;
        if !run_dir.vm(&name).exists() {
            return Ok(name);
        }
    }
    bail!("no name is free: choose one with --name, or remove VMs with `hyperfork rm`")
}

/// `wanted`, or `wanted` with the first number that makes it a free name.
///
/// # Errors
/// It is not a name.
pub(crate) fn free_name_like(run_dir: &RunDir, wanted: &str) -> anyhow::Result<VmName> {
    let mut name = VmName::new(wanted)?;
    let mut number = 1;
    while run_dir.vm(&name).exists() {
        number += 1;
        name = VmName::new(format!("{wanted}{number}"))?;
    }
    Ok(name)
}

const ADJECTIVES: [&str; 32] = [
    "amber", "bold", "brisk", "calm", "clear", "crisp", "dapper", "eager", "fair", "fleet", "fond",
    "gentle", "glad", "hardy", "jolly", "keen", "kind", "lively", "lucid", "mellow", "merry",
    "nimble", "noble", "placid", "quick", "quiet", "serene", "spry", "sunny", "tidy", "vivid",
    "witty",
];

const NOUNS: [&str; 32] = [
    "alder", "ash", "aspen", "badger", "beech", "birch", "cedar", "clover", "crane", "egret",
    "elm", "fern", "finch", "hazel", "heron", "ibis", "juniper", "larch", "lark", "linden",
    "maple", "marten", "oak", "otter", "pine", "plover", "rowan", "sorrel", "spruce", "swift",
    "tern", "willow",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_tells_its_memory() {
        let memory = host_memory().unwrap();
        assert!(memory.total >= memory.available && memory.available.as_mib() > 0);
    }

    #[test]
    fn a_vm_that_was_stopped_before_it_was_ready_is_told_by_its_name() {
        let stopped = hyperfork_api::Error::new(Code::NotRunning, "it was stopped");
        let error = with_name(&VmName::new("p").unwrap(), stopped.into());
        assert_eq!(error.to_string(), "p did not become ready: it was stopped");
    }

    #[test]
    fn more_memory_than_the_host_has_is_refused() {
        let error = fits_the_host(Bytes::mib(1 << 40)).unwrap_err().to_string();
        assert!(error.contains("more memory than this host has"), "{error}");
        assert!(fits_the_host(Bytes::mib(64)).is_ok());
    }
}
