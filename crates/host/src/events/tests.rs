//! VMs played by threads that hold the lock of a directory and serve its socket.

use super::*;
use crate::lines::{greeting, line_of};
use crate::run_dir::Claim;
use hyperfork_api::control::{Answer, Peer};
use hyperfork_api::event::EventKind;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};

fn name(name: &str) -> VmName {
    VmName::new(name).unwrap()
}

/// A VM that is found in the run directory.
struct Fake {
    claim: Claim,
    listener: UnixListener,
}

impl Fake {
    fn new(run_dir: &RunDir, name: &str) -> Self {
        let claim = run_dir.claim(&self::name(name)).unwrap();
        let listener = UnixListener::bind(claim.dir.control_socket()).unwrap();
        Self { claim, listener }
    }

    /// Takes a subscription, and answers it.
    fn subscribed(&self) -> UnixStream {
        let (mut stream, _) = self.listener.accept().unwrap();
        let mut request = String::new();
        let mut reader = BufReader::new(&stream);
        reader.read_line(&mut request).unwrap();
        reader.read_line(&mut request).unwrap();
        assert!(request.contains("subscribe"), "{request}");
        stream.write_all(&greeting()).unwrap();
        stream.write_all(&line_of(&Answer::Ok(()))).unwrap();
        stream
    }

    fn send(&self, mut stream: &UnixStream, kind: EventKind) {
        let event = Event {
            time_unix_ms: unix_ms(),
            vm: self.claim.dir.name().clone(),
            kind,
        };
        stream.write_all(&line_of(&event)).unwrap();
    }
}

fn next(events: &mut Events) -> (String, EventKind) {
    let event = events.receive().unwrap().unwrap();
    (event.vm.to_string(), event.kind)
}

#[test]
fn a_vm_is_followed_from_its_name_to_its_removal() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = RunDir::open(folder.path().join("run")).unwrap();
    let mut events = Events::begin(run_dir.clone(), Vec::new()).unwrap();
    let vm = Fake::new(&run_dir, "p");
    let dir = vm.claim.dir.clone();
    // The VM is connected to again and again until it answers.
    let vm_thread = std::thread::spawn(move || {
        let stream = vm.subscribed();
        vm.send(&stream, EventKind::Paused);
        vm.send(&stream, EventKind::Stopped);
        drop((stream, vm));
        dir.remove().unwrap();
    });
    assert_eq!(next(&mut events), ("p".to_owned(), EventKind::Paused));
    assert_eq!(next(&mut events), ("p".to_owned(), EventKind::Stopped));
    assert_eq!(next(&mut events), ("p".to_owned(), EventKind::Removed));
    vm_thread.join().unwrap();
}

#[test]
fn a_vm_that_is_killed_is_reported_as_failed() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = RunDir::open(folder.path().join("run")).unwrap();
    let vm = Fake::new(&run_dir, "p");
    let mut events = Events::begin(run_dir, Vec::new()).unwrap();
    let stream = vm.subscribed();
    vm.send(&stream, EventKind::Resumed);
    assert_eq!(next(&mut events).1, EventKind::Resumed);
    drop((stream, vm));
    let (_, kind) = next(&mut events);
    assert!(matches!(kind, EventKind::Failed { error } if error.contains("killed")));
}

#[test]
fn only_the_events_of_the_vms_that_were_asked_for_are_passed_on() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = RunDir::open(folder.path().join("run")).unwrap();
    let other = Fake::new(&run_dir, "other");
    let mut events = Events::begin(run_dir.clone(), vec![name("p")]).unwrap();
    let vm = Fake::new(&run_dir, "p");
    let vm_thread = std::thread::spawn(move || {
        let stream = vm.subscribed();
        vm.send(&stream, EventKind::Paused);
        stream
    });
    assert_eq!(next(&mut events).0, "p");
    drop(vm_thread.join().unwrap());
    other.listener.set_nonblocking(true).unwrap();
    let refused = other.listener.accept().unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_vm_of_the_first_protocol_is_an_error_and_does_not_stop_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = RunDir::open(folder.path().join("run")).unwrap();
    let old = Fake::new(&run_dir, "old");
    let vm = Fake::new(&run_dir, "p");
    let mut events = Events::begin(run_dir, Vec::new()).unwrap();
    let (mut stream, _) = old.listener.accept().unwrap();
    stream
        .write_all(b"{\"error\":\"not a request\"}\n")
        .unwrap();
    let error = events.receive().unwrap().unwrap_err();
    assert!(matches!(
        error,
        ClientError::OtherVersion {
            vm: Peer::First,
            ..
        }
    ));
    let stream = vm.subscribed();
    vm.send(&stream, EventKind::Paused);
    assert_eq!(next(&mut events), ("p".to_owned(), EventKind::Paused));
}
