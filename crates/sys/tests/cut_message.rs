//! Test of a message with more descriptors than the receiver may open. It is a separate test
//! program, because it limits the descriptors of its process.

use hyperfork_sys::scm;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

fn descriptors() -> u64 {
    // One of them is the listing's own.
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as u64 - 1
}

#[test]
fn a_message_with_more_descriptors_than_there_is_room_for_is_an_error_that_says_so() {
    let (here, there) = UnixStream::pair().unwrap();
    let files = (0..8).map(|_| OwnedFd::from(File::open("/dev/null").unwrap()));
    let files: Vec<_> = files.collect();
    scm::send(&here, b"eight", &files).unwrap();
    scm::send(&here, b"eight", &files).unwrap();
    drop(files);
    let limit = getrlimit(Resource::Nofile);
    let before = descriptors();
    let mut tight = limit;
    // Numbers up to the highest in use are taken or free again: room for some of the eight.
    tight.current = Some(before + 4);
    setrlimit(Resource::Nofile, tight).unwrap();
    let cut = scm::receive(&there);
    setrlimit(Resource::Nofile, limit).unwrap();
    let error = cut.unwrap_err().to_string();
    assert!(error.contains("descriptors"), "{error}");
    assert!(error.contains("ulimit -n"), "{error}");
    assert_eq!(
        descriptors(),
        before,
        "those that did arrive are still open"
    );
}
