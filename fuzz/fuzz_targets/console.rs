//! A hostile driver against a console, with a client that types.
//!
//! The first byte says how much is typed before, and whether the client stays.
#![no_main]

use hyperfork_fuzz::SCRATCH;
use hyperfork_sys::memfd;
use hyperfork_vmm::devices::log::{LOG_KEPT, Log};
use hyperfork_vmm::devices::virtio::console::Console;
use hyperfork_vmm::devices::virtio::hostile;
use libfuzzer_sys::fuzz_target;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

fuzz_target!(|input: &[u8]| {
    let Some((&choice, script)) = input.split_first() else {
        return;
    };
    let path = SCRATCH.path().join("console.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let mut client = UnixStream::connect(&path).expect("a connection");
    fs::remove_file(&path).expect("a socket");
    client.set_nonblocking(true).expect("a flag");
    client
        .write_all(&vec![choice; usize::from(choice) * 16])
        .expect("room in the socket");
    let client = (choice % 4 != 3).then_some(client);

    let file = memfd::create("log", 0).expect("memory");
    let log = Log::new(file.try_clone().expect("a descriptor")).expect("a file");
    let console = Console::new(log, listener).expect("descriptors");
    hostile::drive(Box::new(console), script);

    assert!(file.metadata().expect("a file").len() <= 2 * LOG_KEPT);
    if let Some(mut client) = client {
        // The console is gone, and has said what it had to say.
        let mut shown = Vec::new();
        let _ = client.read_to_end(&mut shown);
    }
});
