//! A hostile driver against an entropy source.
#![no_main]

use hyperfork_vmm::devices::virtio::hostile;
use hyperfork_vmm::devices::virtio::rng::Rng;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| hostile::drive(Box::new(Rng), script));
