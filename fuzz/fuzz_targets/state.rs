//! A captured machine as it comes from another process.
#![no_main]

use hyperfork_fuzz::check_recoding;
use hyperfork_host::fuzzing::recode;
use hyperfork_vmm::snapshot::MachineState;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| check_recoding(bytes, recode::<MachineState>));
