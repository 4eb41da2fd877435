//! The bytes that clients of this and of other versions get.

use super::*;
use hyperfork_api::control::{Answer as OnTheWire, Hello, Pause, VERSION};
use hyperfork_sys::peer::stranger_at;
use std::io::Read;

/// A control socket whose owner answers `pause` alone.
fn socket() -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    serve(&path, PendingAnswers::default(), |asked| match asked {
        ControlRequest::Pause(responder) => responder.respond(Ok(())),
        _ => drop(asked),
    })
    .unwrap();
    (directory, path)
}

/// Sends these bytes and reads the answer until the connection is closed.
fn exchange(mut stream: UnixStream, bytes: &[u8]) -> Vec<String> {
    // The connection may have been closed by now.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer.lines().map(str::to_owned).collect()
}

fn ours(requests: &str) -> Vec<u8> {
    let mut bytes = wire::greeting();
    bytes.extend(requests.as_bytes());
    bytes
}

fn error_in(line: &str) -> Error {
    match serde_json::from_str(line).unwrap() {
        OnTheWire::<()>::Error(error) => error,
        OnTheWire::Ok(()) => panic!("{line}"),
    }
}

#[test]
fn another_user_gets_no_answer_and_the_own_one_does() {
    let (_directory, path) = socket();
    let request = ours("{\"pause\":{}}\n");
    assert!(exchange(stranger_at(&path), &request).is_empty());
    assert!(!exchange(UnixStream::connect(&path).unwrap(), &request).is_empty());
}

#[test]
fn a_greeting_and_a_request_sent_together_are_answered_together() {
    let (_directory, path) = socket();
    let stream = UnixStream::connect(&path).unwrap();
    let request = ours("{\"pause\":{}}\n{\"resume\":{}}\n{\"frob\":{}}\n");
    let lines = exchange(stream, &request);
    assert_eq!(wire::hello_in(lines[0].as_bytes()), Some(Hello::ours()));
    assert_eq!(lines[1], r#"{"ok":null}"#);
    assert_eq!(error_in(&lines[2]).code, Code::NotRunning);
    assert_eq!(error_in(&lines[3]).code, Code::Invalid);
    assert_eq!(lines.len(), 4);
    let pause: Request = Pause {}.into();
    assert_eq!(serde_json::to_string(&pause).unwrap(), r#"{"pause":{}}"#);
}

#[test]
fn a_request_that_is_too_long_is_told_the_limit_and_the_next_is_served() {
    let (_directory, path) = socket();
    let mut stream = UnixStream::connect(&path).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let long = "x".repeat(MAX_LINE + 1);
    stream.write_all(&ours(&long)).unwrap();
    stream.write_all(b"\n{\"pause\":{}}\n").unwrap();
    let mut next = || {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        line
    };
    assert!(wire::hello_in(next().as_bytes()).is_some());
    let error = error_in(&next());
    assert_eq!(error.code, Code::TooLong);
    assert!(error.message.contains(&MAX_LINE.to_string()), "{error}");
    assert_eq!(next(), "{\"ok\":null}\n");
}

#[test]
fn a_client_of_the_first_protocol_gets_an_error_of_its_own_form_that_says_what_to_do() {
    let (_directory, path) = socket();
    for request in ["{\"op\":\"info\"}\n", "{\"op\":\"stop\",\"grace_ms\":0}\n"] {
        let stream = UnixStream::connect(&path).unwrap();
        let lines = exchange(stream, request.as_bytes());
        assert_eq!(lines.len(), 1, "{lines:?}");
        // The form of that client's `Reply`: an error of one string.
        let reply: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        let message = reply["error"].as_str().unwrap();
        assert!(
            message.contains(&format!("use version {VERSION}")),
            "{message}"
        );
    }
}

#[test]
fn a_client_of_a_later_protocol_is_greeted_and_refused_with_a_code() {
    let (_directory, path) = socket();
    let request = "{\"hello\":{\"version\":\"9.1.0\",\"protocol\":9}}\n{\"pause\":{}}\n";
    let stream = UnixStream::connect(&path).unwrap();
    let lines = exchange(stream, request.as_bytes());
    assert_eq!(wire::hello_in(lines[0].as_bytes()), Some(Hello::ours()));
    let error = error_in(&lines[1]);
    assert_eq!(error.code, Code::UnsupportedVersion);
    assert!(error.message.contains("9.1.0"), "{error}");
    assert_eq!(lines.len(), 2);
}
