//! A hostile driver against a memory balloon.
//!
//! The first byte says whether the machine is a clone.
#![no_main]

use hyperfork_vmm::devices::virtio::balloon::drive_hostile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Some((&choice, script)) = input.split_first() {
        drive_hostile(choice % 2 == 1, script);
    }
});
