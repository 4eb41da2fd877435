//! A guest that accesses any I/O ports: serial, reset, power management, clock, signal,
//! vector registers.
#![no_main]

use hyperfork_vmm::machine::fuzzing::drive_ports;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| drive_ports(script));
