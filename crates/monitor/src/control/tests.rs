//! The bytes that clients of this and of other versions get.

use super::*;
use hyperfork_api::control::{Answer as OnTheWire, Hello, Pause, VERSION};
use hyperfork_sys::peer::stranger_at;
use std::io::Read;
use std::sync::mpsc::channel;

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
    assert_eq!(
        wire::peer_in(lines[0].as_bytes()),
        Peer::Greeted(Hello::ours())
    );
    assert_eq!(lines[1], r#"{"ok":null}"#);
    assert_eq!(error_in(&lines[2]).code, Code::NotRunning);
    assert_eq!(error_in(&lines[3]).code, Code::Invalid);
    assert_eq!(lines.len(), 4);
    let pause: Request = Pause {}.into();
    assert_eq!(serde_json::to_string(&pause).unwrap(), r#"{"pause":{}}"#);
}

/// Serves a connection on which the client has sent this before it `leaves`, which it does by
/// closing (`None`) or half-closing. Returns how many requests were carried out.
fn serve_client(bytes: &[u8], leaves: impl FnOnce(UnixStream) -> Option<UnixStream>) -> usize {
    let (mut client, served) = UnixStream::pair().unwrap();
    client.write_all(bytes).unwrap();
    let _client = leaves(client);
    let (asked, requests) = channel();
    serve_connection(served, &PendingAnswers::default(), &move |request| {
        asked.send(()).unwrap();
        drop(request);
    });
    requests.iter().count()
}

#[test]
fn a_request_of_a_client_that_has_given_up_is_not_carried_out() {
    for request in ["{\"fork\":{\"count\":1}}\n", "{\"pause\":{}}\n"] {
        let sent = ours(request);
        assert_eq!(serve_client(&sent, |_| None), 0);
        let half_closed = |client: UnixStream| {
            client.shutdown(std::net::Shutdown::Write).unwrap();
            Some(client)
        };
        assert_eq!(serve_client(&sent, half_closed), 1);
    }
}

#[test]
fn a_fork_is_awaited_until_its_client_closes_the_connection() {
    let (client, served) = UnixStream::pair().unwrap();
    let served = Arc::new(served);
    let (outlet, _rest) = Outlet::new(&served, Vec::new());
    let fork = hyperfork_api::control::Fork::new(1).into();
    let request = ControlRequest::new(fork, Monotonic::now(), &served, outlet);
    let Ok(ControlRequest::Fork(_, _, responder)) = request else {
        panic!("it is a fork");
    };
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(responder.is_awaited());
    drop(client);
    assert!(!responder.is_awaited());
}

#[test]
fn a_connection_whose_client_is_gone_ends_also_while_its_answer_is_waited_for() {
    let (mut client, served) = UnixStream::pair().unwrap();
    client.write_all(&ours("{\"wait_exit\":{}}\n")).unwrap();
    let (asked, requests) = channel();
    let pending = PendingAnswers::default();
    let serving = thread::spawn(move || {
        serve_connection(served, &pending, &move |request| {
            asked.send(request).unwrap()
        });
    });
    let _never_answered = requests.recv().unwrap();
    drop(client);
    serving.join().unwrap();
}

#[test]
fn connections_above_the_limit_are_closed_and_one_that_ends_makes_room() {
    let (_directory, path) = socket();
    let connect = || UnixStream::connect(&path).unwrap();
    let mut idle: Vec<_> = (0..MAX_CONNECTIONS).map(|_| connect()).collect();
    let request = ours("{\"pause\":{}}\n");
    assert!(exchange(connect(), &request).is_empty());
    idle.pop();
    // Its thread ends a moment later.
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while exchange(connect(), &request).is_empty() {
        assert!(std::time::Instant::now() < deadline);
        thread::yield_now();
    }
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
    assert!(wire::peer_in(next().as_bytes()).is_understood());
    let error = error_in(&next());
    assert_eq!(error.code, Code::TooLong);
    assert!(error.message.contains(&MAX_LINE.to_string()), "{error}");
    assert_eq!(next(), "{\"ok\":null}\n");
}

#[test]
fn a_request_that_cannot_be_read_is_quoted_in_part_and_without_control_characters() {
    let (_directory, path) = socket();
    let request = ours(&format!("{{\"\\u001b[2J{}\":{{}}}}\n", "x".repeat(1 << 20)));
    let lines = exchange(UnixStream::connect(&path).unwrap(), &request);
    let error = error_in(&lines[1]);
    assert_eq!(error.code, Code::Invalid);
    assert!(error.message.len() < 400, "{}", error.message.len());
    assert!(error.message.contains("\\u{1b}[2Jxx"), "{error}");
}

#[test]
fn what_is_no_client_at_all_is_told_what_is_expected() {
    let (_directory, path) = socket();
    let stream = UnixStream::connect(&path).unwrap();
    let lines = exchange(stream, b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("expects a greeting"), "{lines:?}");
    assert!(!lines[0].contains("older"), "{lines:?}");
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
    assert_eq!(
        wire::peer_in(lines[0].as_bytes()),
        Peer::Greeted(Hello::ours())
    );
    let error = error_in(&lines[1]);
    assert_eq!(error.code, Code::UnsupportedVersion);
    assert!(error.message.contains("9.1.0"), "{error}");
    assert_eq!(lines.len(), 2);
}
