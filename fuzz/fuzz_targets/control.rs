//! Lines on a VM's control socket, both ways, and the file that says what a VM was.
//!
//! The first byte says which is expected.
#![no_main]

use hyperfork_api::VmInfo;
use hyperfork_api::control::{Reply, Request};
use hyperfork_fuzz::check_json;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&kind, line)) = input.split_first() else {
        return;
    };
    match kind % 3 {
        0 => check_json::<Request>(line),
        1 => check_json::<Reply>(line),
        _ => check_json::<VmInfo>(line),
    }
});
