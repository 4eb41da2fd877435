//! A hostile driver against a socket device.
//!
//! The first byte chooses: anything at all in the rings of a guest or of a clone,
//! or any packets in orderly rings.
#![no_main]

use hyperfork_vmm::devices::virtio::vsock::Vsock;
use hyperfork_vmm::devices::virtio::vsock::fuzzing::drive_packets;
use hyperfork_vmm::devices::virtio::{DeviceState, VirtioDevice, hostile};
use hyperfork_sys::fds::FdTable;
use libfuzzer_sys::fuzz_target;

const CID: u32 = 3;
const PORT: u32 = 1024;

fuzz_target!(|input: &[u8]| {
    let Some((&choice, script)) = input.split_first() else {
        return;
    };
    let (mut device, mut handle) = Vsock::new(CID).expect("descriptors");
    match choice % 4 {
        0 | 1 => return drive_packets(script),
        2 => {}
        _ => {
            let state = device.save(&mut FdTable::default()).expect("a state");
            let DeviceState::Vsock(state) = state else {
                unreachable!("the state of another device")
            };
            (device, handle) = Vsock::restore(CID, &state).expect("descriptors");
        }
    }
    let _stream = handle.connect(PORT).expect("descriptors");
    hostile::drive(Box::new(device), script);
});
