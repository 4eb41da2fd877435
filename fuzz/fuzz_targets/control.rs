//! Lines on a VM's control socket, both ways, events, and the file that says what a VM was.
//!
//! The first byte says which is expected.
#![no_main]

use hyperfork_api::control::{Answer, Greeting, Request, Sampled};
use hyperfork_api::{Event, ForkReport, VmInfo};
use hyperfork_fuzz::check_json;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&kind, line)) = input.split_first() else {
        return;
    };
    match kind % 6 {
        0 => check_json::<Request>(line),
        1 => check_json::<Answer<Vec<Sampled>>>(line),
        2 => check_json::<VmInfo>(line),
        3 => check_json::<Answer<ForkReport>>(line),
        4 => check_json::<Event>(line),
        _ => check_json::<Greeting>(line),
    }
});
