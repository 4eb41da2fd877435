//! KVM: what kind it is, whether the user may use it, and what it can do.

use super::Check;
use hyperfork_vmm::kvm::{Host, HostKind, KvmError};
use kvm_ioctls::{Cap, Kvm};
use std::fs;
use std::os::unix::fs::MetadataExt;

const DEVICE: &str = "/dev/kvm";

/// What kind of KVM this host has, and what that means.
pub(super) fn device() -> Check {
    const NAME: &str = "kvm";
    match Host::open().map(|host| host.kind()) {
        Ok(HostKind::Hardware) => Check::ok(
            NAME,
            "hardware virtualization: every guest kernel runs, at full speed",
        ),
        Ok(HostKind::Pvm) => Check::ok(
            NAME,
            "PVM (KVM without hardware help): guest programs run at full speed, guest kernels are \
             emulated instruction by instruction. System calls and page faults in the guest take \
             0.3 to 1 ms, and the guest kernel must be ours",
        ),
        Err(KvmError::Missing) => Check::failed(
            NAME,
            format!("there is no {DEVICE}"),
            "enable virtualization in the firmware or the hypervisor, then: sudo modprobe \
             kvm_intel || sudo modprobe kvm_amd",
        ),
        Err(KvmError::Permission) => {
            Check::failed(NAME, format!("you may not open {DEVICE}"), permission())
        }
        Err(error) => Check::failed(NAME, error.to_string(), "use a newer kernel"),
    }
}

/// Which processor features guests see.
pub(super) fn processor() -> Check {
    const NAME: &str = "guests' processor";
    match Host::open().map(|host| host.kind()) {
        Ok(HostKind::Hardware) => Check::ok(
            NAME,
            "a list of features that they may see, without nested virtualization",
        ),
        Ok(HostKind::Pvm) => Check::ok(
            NAME,
            "PVM shows them this host's own CPUID, whatever the monitor allows",
        ),
        Err(_) => Check::ok(NAME, "not known without KVM"),
    }
}

/// How to get permission.
fn permission() -> String {
    let group = fs::metadata(DEVICE).ok().and_then(|device| {
        let groups = fs::read_to_string("/etc/group").ok()?;
        let line = groups.lines().find(|line| {
            // group(5): name, password, number, members.
            line.split(':').nth(2).and_then(|gid| gid.parse().ok()) == Some(device.gid())
        })?;
        let writable = device.mode() & 0o060 == 0o060;
        line.split(':')
            .next()
            .filter(|group| writable && *group != "root")
            .map(str::to_owned)
    });
    match group {
        Some(group) => format!("sudo usermod -aG {group} $USER, then log in again"),
        None => {
            format!("sudo chgrp kvm {DEVICE} && sudo chmod 660 {DEVICE}, and join the group kvm")
        }
    }
}

/// Capabilities that make something better or possible (KVM's api.rst, section 8
/// and the ioctls' own); those that nothing works without are part of the first
/// check.
const WANTED: [(Cap, &str, &str); 3] = [
    (
        Cap::TscControl,
        "TSC control",
        "clones see the host's time stamp counter",
    ),
    (
        Cap::TscDeadlineTimer,
        "TSC deadline timer",
        "guests use slower timers",
    ),
    (
        Cap::Xsave2,
        "KVM_GET_XSAVE2",
        "registers wider than AVX-512 are not captured",
    ),
];

/// What KVM can do beyond the necessary.
pub(super) fn capabilities() -> Check {
    const NAME: &str = "kvm capabilities";
    let Ok(kvm) = Kvm::new() else {
        return Check::ok(NAME, "not known without KVM");
    };
    let missing: Vec<String> = WANTED
        .iter()
        .filter(|(cap, ..)| !kvm.check_extension(*cap))
        .map(|(_, name, so)| format!("no {name} ({so})"))
        .collect();
    let most = format!(
        "up to {} vCPUs and {} memory slots per VM",
        kvm.get_max_vcpus(),
        kvm.get_nr_memslots()
    );
    match missing.is_empty() {
        true => Check::ok(NAME, format!("all that are made use of; {most}")),
        false => Check::ok(NAME, format!("{}; {most}", missing.join("; "))),
    }
}
