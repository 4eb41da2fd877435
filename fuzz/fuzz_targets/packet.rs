//! Packets that a guest sends through the user-mode network.
#![no_main]

use hyperfork_net::user::fuzzing::read_packet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|packet: &[u8]| {
    read_packet(packet);
});
