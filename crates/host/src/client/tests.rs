//! What a client says of VMs that answer in this way or that, or not at all.

use super::*;
use crate::run_dir::{Claim, RunDir};
use hyperfork_api::control::{Pause, Stop};
use std::os::unix::net::UnixListener;
use std::thread;

/// A VM that answers its first request with this line.
fn answering(run_dir: &RunDir, line: Vec<u8>) -> Claim {
    let claim = run_dir.claim(&VmName::new("p").unwrap()).unwrap();
    let listener = UnixListener::bind(claim.dir.control_socket()).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut received = String::new();
        reader.read_line(&mut received).unwrap();
        assert_eq!(received.as_bytes(), lines::greeting());
        reader.read_line(&mut received).unwrap();
        stream.write_all(&[lines::greeting(), line].concat())
    });
    claim
}

fn refused(error: Error) -> Vec<u8> {
    line_of(&Answer::<()>::Error(error))
}

#[test]
fn a_refusal_has_the_vms_words_and_code() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = RunDir::open(folder.path().join("run")).unwrap();
    let error = Error::new(Code::WrongState, "p is paused already");
    let claim = answering(&run_dir, refused(error));
    let error = Client::connect(&claim.dir).unwrap().ask(Pause {});
    let error = error.unwrap_err();
    assert_eq!(error.to_string(), "p is paused already");
    assert_eq!(error.code(), Code::WrongState);
}

#[test]
fn a_vm_that_ends_before_it_answers_is_not_running() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = RunDir::open(folder.path().join("run")).unwrap();
    let error = Error::new(Code::NotRunning, "the VM ended before it could answer");
    let claim = answering(&run_dir, refused(error));
    let stopped = Client::connect(&claim.dir)
        .unwrap()
        .ask(Stop { grace_ms: 0 });
    assert!(matches!(stopped, Err(ClientError::NotRunning { .. })));
}

#[test]
fn an_answer_to_another_request_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = RunDir::open(folder.path().join("run")).unwrap();
    let claim = answering(&run_dir, line_of(&Answer::Ok(())));
    let asked = Client::connect(&claim.dir).unwrap().ask(Info {});
    assert!(matches!(asked, Err(ClientError::Connection { .. })));
}

/// A VM whose process runs, and does this with its connections.
fn serving(run_dir: &RunDir, serve: impl FnOnce(UnixListener) + Send + 'static) -> Claim {
    let claim = run_dir.claim(&VmName::new("p").unwrap()).unwrap();
    let listener = UnixListener::bind(claim.dir.control_socket()).unwrap();
    thread::spawn(move || serve(listener));
    claim
}

#[test]
fn a_running_vm_that_closes_the_connection_does_not_answer_and_is_not_called_ended() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = RunDir::open(folder.path().join("run")).unwrap();
    let claim = serving(&run_dir, |listener| {
        listener.incoming().for_each(drop);
    });
    let error = Client::connect(&claim.dir).unwrap().ask(Pause {});
    let error = error.unwrap_err();
    assert!(matches!(error, ClientError::Closed { .. }), "{error:?}");
    assert!(error.to_string().starts_with("p does not answer"));
}

#[test]
fn a_vm_that_takes_no_request_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = RunDir::open(folder.path().join("run")).unwrap();
    let (over, wait) = std::sync::mpsc::channel::<()>();
    let claim = serving(&run_dir, move |_listener| {
        let _ = wait.recv();
    });
    let error = Client::connect(&claim.dir).unwrap().ask(Pause {});
    let error = error.unwrap_err();
    assert!(matches!(error, ClientError::Silent { .. }), "{error:?}");
    drop(over);
}

#[test]
fn a_vm_that_has_taken_the_request_is_waited_for_longer_than_one_that_has_not() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = RunDir::open(folder.path().join("run")).unwrap();
    let claim = serving(&run_dir, |listener| {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        for _ in 0..2 {
            reader.read_line(&mut String::new()).unwrap();
        }
        thread::sleep(REQUEST_TIMEOUT + CHECK_INTERVAL);
        let answer = [lines::greeting(), line_of(&Answer::Ok(()))].concat();
        stream.write_all(&answer).unwrap();
    });
    Client::connect(&claim.dir).unwrap().ask(Pause {}).unwrap();
}
