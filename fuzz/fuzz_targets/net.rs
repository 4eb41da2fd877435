//! A hostile driver against a network card.
//!
//! The first byte says how many frames wait for the driver, the next ones how long they
//! are.
#![no_main]

use hyperfork_api::Mac;
use hyperfork_sys::tap::Tap;
use hyperfork_vmm::devices::virtio::hostile;
use hyperfork_vmm::devices::virtio::net::Net;
use libfuzzer_sys::fuzz_target;
use std::os::unix::net::UnixDatagram;

fuzz_target!(|input: &[u8]| {
    let Some((&count, rest)) = input.split_first() else {
        return;
    };
    let (lengths, script) = rest.split_at(rest.len().min(usize::from(count % 8)));
    let (ours, wire) = UnixDatagram::pair().expect("descriptors");
    wire.set_nonblocking(true).expect("a flag");
    for &length in lengths {
        // The wire may be full.
        let _ = wire.send(&vec![length; usize::from(length) << 8]);
    }
    let tap = Tap::from_socket(ours.into()).expect("a socket");
    let net = Net::new(tap, Mac([2, 0, 0, 0, 0, 7]), None).expect("descriptors");
    hostile::drive(Box::new(net), script);
});
