//! Messages between a VM's process and its launcher: orders, and how far it is.
//!
//! The first byte says which is expected.
#![no_main]

use hyperfork_fuzz::check_recoding;
use hyperfork_host::fuzzing::recode_handover;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Some((&kind, bytes)) = input.split_first() {
        check_recoding(bytes, |bytes| recode_handover(kind, bytes));
    }
});
