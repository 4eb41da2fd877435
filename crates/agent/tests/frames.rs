//! Whatever comes over a connection, the agent goes on.
#![allow(clippy::unwrap_used)]

mod support;

use hyperfork_api::frame;
use hyperfork_api::guest::{Reply, Request, Stream, WindowSize};
use proptest::prelude::*;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use support::*;

/// Sends bytes, reads what comes until the agent closes.
fn throw(agent: &Agent, bytes: &[u8]) {
    let mut talk = agent.connect(PARENT);
    // It may have closed already.
    let _ = talk.stream.write_all(bytes);
    let _ = talk.stream.shutdown(Shutdown::Write);
    match talk.stream.read_to_end(&mut Vec::new()) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

#[test]
fn a_malformed_frame_closes_its_conversation_and_no_other() {
    let agent = Agent::start();
    let mut other = agent.exec(with_stdin(sh("echo ready; cat")));
    other.hear_text("ready");
    for bytes in [
        &b"\xff\xff\xff\xff"[..],
        b"\x01\0\0\0\xff",
        b"\0\0\0\0",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        throw(&agent, bytes);
    }
    let mut talk = agent.exec(with_stdin(command(&["cat"])));
    talk.stream.write_all(b"\x01\0\0\0\xff").unwrap();
    assert!(talk.is_closed());
    other.say(&Stream::StdinEnd);
    assert_eq!(other.end().status, 0);
}

#[test]
fn a_connection_without_a_request_holds_nothing_up() {
    let agent = Agent::start();
    let idle: Vec<_> = (0..50).map(|_| agent.connect(PARENT)).collect();
    let mut half = agent.connect(PARENT);
    half.stream.write_all(&[1, 0]).unwrap();
    assert_eq!(agent.exec(command(&["true"])).end().status, 0);
    drop((idle, half));
    assert!(agent.is_alive());
}

#[test]
fn messages_that_make_no_sense_in_a_conversation_are_ignored() {
    let agent = Agent::start();
    let mut talk = agent.exec(with_stdin(command(&["cat"])));
    for message in [
        Stream::Exited(3),
        Stream::DataEnd,
        Stream::Data(vec![1]),
        Stream::Stdout(vec![2]),
        Stream::Resize(WindowSize { rows: 1, cols: 1 }),
        Stream::Stdin(Vec::new()),
        Stream::Signal(0),
        Stream::Signal(-1),
        Stream::StdinEnd,
        Stream::StdinEnd,
        Stream::Stdin(b"late".to_vec()),
    ] {
        talk.say(&message);
    }
    assert_eq!(talk.end(), End::default());
}

/// Messages in any order.
fn messages() -> impl Strategy<Value = Vec<Stream>> {
    let message = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..5000).prop_map(Stream::Stdin),
        Just(Stream::StdinEnd),
        (any::<u16>(), any::<u16>())
            .prop_map(|(rows, cols)| Stream::Resize(WindowSize { rows, cols })),
        // Not those that would leave programs behind.
        prop_oneof![Just(0), Just(18), Just(10), 65..i32::MAX].prop_map(Stream::Signal),
        proptest::collection::vec(any::<u8>(), 0..50).prop_map(Stream::Data),
        any::<i32>().prop_map(Stream::Exited),
    ];
    proptest::collection::vec(message, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn no_bytes_stop_the_agent(
        bytes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..20),
    ) {
        let agent = Agent::start();
        for bytes in bytes {
            throw(&agent, &bytes);
            let mut framed = (bytes.len() as u32).to_le_bytes().to_vec();
            framed.extend(bytes);
            // Some bodies are a request to end; they are not what is tested.
            if frame::decode::<Request>(&mut framed.clone()).is_ok_and(|it| it != Some(Request::PowerOff)) {
                throw(&agent, &framed);
            }
        }
        prop_assert_eq!(agent.ask(PARENT, &Request::Ping), Reply::Ok);
    }

    #[test]
    fn no_order_of_messages_stops_the_agent(
        messages in messages(),
        terminal: bool,
        cut in 0..100_usize,
    ) {
        let agent = Agent::start();
        let command = command(&["cat"]);
        let command = if terminal { on_terminal(command) } else { with_stdin(command) };
        let mut bytes = frame::encode(&Request::Exec(command)).unwrap();
        for message in &messages {
            bytes.extend(frame::encode(message).unwrap());
        }
        bytes.truncate(bytes.len() * (100 - cut) / 100);
        throw(&agent, &bytes);
        prop_assert_eq!(agent.ask(PARENT, &Request::Ping), Reply::Ok);
    }
}
