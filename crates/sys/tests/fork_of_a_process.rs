//! Tests of `fork(2)` in a process with threads. They are a separate test program, because for a
//! moment the children have all descriptors of the process.
#![allow(clippy::unwrap_used)] // A test fails by panicking.

use hyperfork_sys::fork;
use rustix::process::{Pid, WaitOptions, waitpid};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::thread;

/// Forks the test's process.
fn fork(keep: &[RawFd], life: impl FnOnce() -> ExitCode + Send) -> io::Result<u32> {
    // SAFETY: what the tests' children use is lent to them exclusively or their own, and no
    // other thread uses it.
    unsafe { fork::fork(keep, life) }
}

fn exit_status(child: u32) -> Option<i32> {
    let waited = waitpid(Pid::from_raw(child as i32), WaitOptions::empty());
    waited.unwrap().unwrap().1.exit_status()
}

#[test]
fn a_child_has_what_it_was_left_and_no_other_descriptor() {
    let (mut here, mut there) = UnixStream::pair().unwrap();
    let other = File::open("/dev/null").unwrap();
    let keep = there.try_clone().unwrap();
    let child = fork(&[keep.as_raw_fd()], || {
        let closed = |fd: &dyn AsRawFd| {
            let fd = format!("/proc/self/fd/{}", fd.as_raw_fd());
            !Path::new(&fd).exists()
        };
        assert!(closed(&other) && closed(&there));
        // Threads, allocations and standard error are there.
        thread::spawn(|| eprintln!("{:?}", vec![1; 10_000].len()))
            .join()
            .unwrap();
        (&keep).write_all(b"alive").unwrap();
        ExitCode::SUCCESS
    })
    .unwrap();
    drop(keep);
    there.write_all(b"!").unwrap();
    drop(there);
    let mut said = String::new();
    here.read_to_string(&mut said).unwrap();
    assert!(["alive!", "!alive"].contains(&&*said), "{said}");
    assert_eq!(exit_status(child), Some(0));
}

#[test]
fn a_child_that_panics_fails() {
    let child = fork(&[], || panic!("as it should")).unwrap();
    assert_eq!(exit_status(child), Some(1));
}

#[test]
fn what_a_child_does_to_memory_it_does_to_its_own() {
    let mut word = Box::new(1);
    let child = fork(&[], || {
        *word += 1;
        match *word {
            2 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    })
    .unwrap();
    assert_eq!(exit_status(child), Some(0));
    assert_eq!(*word, 1);
}
