//! What a VM tells of its disks, and gives of them.

use super::Owner;
use crate::control::Answer;
use hyperfork_api::control::ExportDisk;
use hyperfork_api::spec::Guest;
use hyperfork_api::{Code, DiskInfo, Error, VmSpec};
use hyperfork_vmm::devices::virtio::block::handle;
use hyperfork_vmm::machine::{Machine, slots};

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
    /// Writes the disk as it is now to a file, and then answers.
    pub(super) fn export_disk(&self, request: ExportDisk, answer: Answer<ExportDisk>) {
        let ExportDisk { device, path } = request;
        let mut disks = (0..).zip(self.machine.disks());
        let found = disks.find(|(index, _)| slots::disk_name(*index) == device);
        let Some((_, disk)) = found else {
            let words = format!("{} has no disk {device}", self.info.about.name);
            return answer.give(Err(Error::new(Code::NotFound, words)));
        };
        // This process works in another directory than its client.
        if !path.is_absolute() {
            let words = format!("{} is not an absolute path", path.display());
            return answer.give(Err(Error::new(Code::Invalid, words)));
        }
        let disk = match disk.snapshot() {
            Ok(disk) => disk,
            Err(error) => return answer.give(Err(Error::of_any(&error))),
        };
        answer.give_on_a_thread("export", move || {
            handle::export(&disk, &path).map_err(|error| {
                let words = format!("cannot write {}", path.display());
                Error::because(Code::Host, words, &error)
            })
        });
    }
}
