//! A captured machine as it comes from another process.
//!
//! The input is what is behind the header, or nothing would be read but that. It may be a
//! whole one, too.
#![no_main]

use hyperfork_fuzz::check_recoding;
use hyperfork_state::seal;
use hyperfork_vmm::snapshot::MachineState;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check_recoding(bytes, recode);
    drop(MachineState::decode(bytes));
});

fn recode(body: &[u8]) -> Option<Vec<u8>> {
    let state = MachineState::decode(&seal(body)).ok()?;
    let header = seal(&[]).len();
    Some(state.encode().split_off(header))
}
