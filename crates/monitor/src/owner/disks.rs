//! A VM's disks: their usage, and exporting one.

use super::Owner;
use crate::control::Responder;
use hyperfork_api::control::ExportDisk;
use hyperfork_api::spec::Guest;
use hyperfork_api::{Code, DiskInfo, Error, VmSpec};
use hyperfork_vmm::devices::virtio::block::handle;
use hyperfork_vmm::machine::{Machine, slots};

/// Size and usage of the disks of a machine for `spec`.
pub(super) fn info(spec: &VmSpec, machine: &Machine) -> Vec<DiskInfo> {
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
    /// Writes the present content of a disk to a file, and then answers.
    pub(super) fn export_disk(&self, request: ExportDisk, responder: Responder<ExportDisk>) {
        let ExportDisk { device, path } = request;
        let mut disks = (0..).zip(self.machine.disks());
        let found = disks.find(|(index, _)| slots::disk_name(*index) == device);
        let Some((_, disk)) = found else {
            let message = format!("{} has no disk {device}", self.info.about.name);
            return responder.respond(Err(Error::new(Code::NotFound, message)));
        };
        // This process works in another directory than its client.
        if !path.is_absolute() {
            let message = format!("{} is not an absolute path", path.display());
            return responder.respond(Err(Error::new(Code::Invalid, message)));
        }
        let disk = match disk.snapshot() {
            Ok(disk) => disk,
            Err(error) => return responder.respond(Err(Error::of_any(&error))),
        };
        responder.respond_from_thread("export", move || {
            handle::export(&disk, &path).map_err(|error| {
                let message = format!("cannot write {}", path.display());
                Error::because(Code::Host, message, &error)
            })
        });
    }
}
