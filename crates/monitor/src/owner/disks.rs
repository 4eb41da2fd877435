//! What a VM tells of its disks, and gives of them.

use super::Owner;
use hyperfork_api::control::Reply;
use hyperfork_api::one_line;
use hyperfork_api::spec::Guest;
use hyperfork_api::{DiskInfo, VmSpec};
use hyperfork_vmm::devices::virtio::block::handle;
use hyperfork_vmm::machine::{Machine, slots};
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::thread;

/// What there is to know about the disks of a machine for `spec`.
pub(super) fn told(spec: &VmSpec, machine: &Machine) -> Vec<DiskInfo> {
    let Guest::Linux(guest) = &spec.guest else {
        return Vec::new();
    };
    let disks = (0..).zip(&guest.disks).zip(machine.disks());
    let info = disks.map(|((index, disk), handle)| {
        let usage = handle.usage();
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        DiskInfo {
            device: slots::disk_name(index),
            path: disk.path.clone(),
            read_only: disk.read_only,
            size_mib: mib(usage.size),
            shared_mib: mib(usage.shared),
            private_mib: mib(usage.private),
            error: usage.error,
        }
    });
    info.collect()
}

impl Owner {
    /// Writes the disk as it is now to `path`, and then answers.
    ///
    /// # Errors
    /// Why it is not even begun.
    pub(super) fn export_disk(
        &self,
        device: &str,
        path: PathBuf,
        reply: Sender<Reply>,
    ) -> Result<(), String> {
        let mut disks = (0..).zip(self.machine.disks());
        let found = disks.find(|(index, _)| slots::disk_name(*index) == device);
        let (_, disk) = found.ok_or_else(|| format!("{} has no disk {device}", self.info.name))?;
        let disk = disk.snapshot().map_err(|error| one_line(&error))?;
        let export = move || {
            let answer = match handle::export(&disk, &path) {
                Ok(()) => Reply::Ok,
                Err(error) => Reply::Error(format!("cannot write {}: {error}", path.display())),
            };
            let _ = reply.send(answer);
        };
        let spawned = thread::Builder::new().name("export".into()).spawn(export);
        spawned.map(drop).map_err(|error| one_line(&error))
    }
}
