//! Chooses the guest's processor that the agent runs on.
//!
//! Where a guest's kernel is emulated, a request to a clone is some 20 ms of work for vsock's
//! interrupt and its worker, and as much for the agent. On two processors they go side by
//! side. On one they wait for each other, and where they were at a fork is where they are in
//! each of its clones. So the agent keeps off the interrupt's processor. The programs it
//! starts may run on all of them.

use crate::sys::cpus;
use std::fs;
use std::io;
use std::path::Path;

/// The word that tells a kernel that it is emulated.
const EMULATED: &str = "hyperfork.pvm";

const VSOCK_DRIVER: &str = "/sys/bus/virtio/drivers/vmw_vsock_virtio_transport";

/// Keeps this process off the processor that vsock's interrupts go to, where that pays.
///
/// # Errors
/// What the kernel does not tell, or does not allow.
pub(crate) fn keep_off_vsock() -> io::Result<()> {
    let words = fs::read_to_string("/proc/cmdline")?;
    if !words.split_whitespace().any(|word| word == EMULATED) {
        return Ok(());
    }
    let cpus = cpus::allowed()?;
    if cpus.len() < 2 {
        return Ok(());
    }
    let busy = vsock_cpu()?;
    match cpus.into_iter().find(|&cpu| cpu != busy) {
        Some(free) => cpus::keep_to(free),
        None => Ok(()),
    }
}

/// Where vsock's interrupts go.
fn vsock_cpu() -> io::Result<usize> {
    let device = device_of(Path::new(VSOCK_DRIVER))?;
    let interrupts = fs::read_to_string("/proc/interrupts")?;
    let number = number_of(&interrupts, &device)
        .ok_or_else(|| io::Error::other(format!("{device} has no interrupt")))?;
    let cpus = fs::read_to_string(format!("/proc/irq/{number}/effective_affinity_list"))?;
    first(&cpus).ok_or_else(|| io::Error::other(format!("interrupt {number} goes nowhere")))
}

/// The device that a virtio driver has taken.
fn device_of(driver: &Path) -> io::Result<String> {
    for entry in fs::read_dir(driver)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("virtio") {
            return Ok(name);
        }
    }
    Err(io::Error::other("vsock has no device"))
}

/// The number of the interrupt whose action has this name (proc_interrupts(5)).
fn number_of(interrupts: &str, action: &str) -> Option<u32> {
    let line = interrupts
        .lines()
        .find(|line| line.split_whitespace().next_back() == Some(action))?;
    line.split_once(':')?.0.trim().parse().ok()
}

/// The first of a list such as `1,4-6`.
fn first(cpus: &str) -> Option<usize> {
    cpus.trim().split([',', '-']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_is_found_by_its_device() {
        let interrupts = "           CPU0       CPU1       \n\
             \x20 2:          0          0    XT-PIC      cascade\n\
             \x2011:          0          0   IO-APIC  11-edge      virtio1\n\
             \x2021:          0         51   IO-APIC  21-edge      virtio11\n\
             LOC:         74         71   Local timer interrupts\n";
        assert_eq!(number_of(interrupts, "virtio11"), Some(21));
        assert_eq!(number_of(interrupts, "virtio1"), Some(11));
        assert_eq!(number_of(interrupts, "virtio2"), None);
        assert_eq!(number_of(interrupts, "interrupts"), None);
    }

    #[test]
    fn lists_of_processors_have_a_first() {
        for (list, cpu) in [("1\n", 1), ("4-6\n", 4), ("2,7", 2)] {
            assert_eq!(first(list), Some(cpu));
        }
        assert_eq!(first("\n"), None);
    }

    #[test]
    fn a_driver_tells_its_device() {
        let driver = tempfile::tempdir().unwrap();
        assert!(device_of(driver.path()).is_err());
        for name in ["bind", "virtio2"] {
            fs::write(driver.path().join(name), "").unwrap();
        }
        assert_eq!(device_of(driver.path()).unwrap(), "virtio2");
    }
}
