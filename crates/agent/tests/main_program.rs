//! The VM's main program.
#![allow(clippy::unwrap_used)]

mod support;

use hyperfork_api::guest::{Failure, Reply, Request, WindowSize};
use support::*;

fn follow(agent: &Agent, from: Option<u64>) -> Talk {
    let mut talk = agent.connect(PARENT);
    talk.say(&Request::FollowMain { from });
    assert_eq!(talk.hear::<Reply>(), Reply::Streaming);
    talk
}

fn start(agent: &Agent, script: &str) {
    let request = Request::StartMain(sh(script));
    assert_eq!(agent.ask(PARENT, &request), Reply::Ok);
}

#[test]
fn every_client_that_follows_sees_all_of_its_output_and_its_end() {
    let agent = Agent::start();
    start(&agent, "echo out; echo err >&2; read x; exit 6");
    for _ in 0..2 {
        let end = follow(&agent, Some(0)).end();
        let streams = (end.stdout.as_slice(), end.stderr.as_slice());
        assert_eq!((end.status, streams), (6, (&b"out\n"[..], &b"err\n"[..])));
    }
    assert_eq!(follow(&agent, None).end().stdout, b"");
    let from_the_middle = follow(&agent, Some(4)).end();
    let both = [from_the_middle.stdout, from_the_middle.stderr].concat();
    assert_eq!(both.len(), 4);
    assert_eq!(follow(&agent, Some(u64::MAX)).end().stdout, b"");
}

#[test]
fn the_last_mebibyte_of_a_long_output_is_kept() {
    const LEN: usize = 20 << 20;
    let agent = Agent::start();
    start(&agent, &format!("head -c {LEN} /dev/zero; printf end"));
    let live = follow(&agent, Some(0)).end();
    assert!(live.stdout.ends_with(b"\0end"));
    let late = follow(&agent, Some(0)).end();
    assert_eq!(late.stdout.len(), 1 << 20);
    assert!(late.stdout.ends_with(b"\0end"));
    // The agent reports what is missing, so that a following client knows its position.
    for end in [live, late] {
        assert_eq!(end.skipped + end.stdout.len() as u64, LEN as u64 + 3);
    }
    let peak = agent.peak_kib();
    assert!(peak < 8 << 10, "the agent took {peak} KiB");
}

#[test]
fn it_runs_on_with_a_follower_that_does_not_read() {
    let agent = Agent::start();
    start(&agent, "head -c 20000000 /dev/zero; exit 2");
    let stuck = follow(&agent, Some(0));
    assert_eq!(follow(&agent, None).end().status, 2);
    drop(stuck);
}

#[test]
fn what_it_has_written_is_counted_and_then_there_for_clients_that_follow() {
    let agent = Agent::start();
    let written = agent.path("written");
    let script = format!(
        "trap 'exit 0' TERM; head -c 300000 /dev/zero; echo > {}; sleep 1000 & wait",
        written.display()
    );
    start(&agent, &script);
    let talk = follow(&agent, Some(0));
    wait_for(&written);
    assert_eq!(
        agent.ask(PARENT, &Request::CountMain),
        Reply::Counted(300_000)
    );
    let late = follow(&agent, Some(0));
    agent.ask(PARENT, &Request::SignalMain(libc::SIGTERM));
    for mut talk in [talk, late] {
        assert_eq!(talk.end().stdout.len(), 300_000);
    }
}

#[test]
fn signals_reach_it() {
    let agent = Agent::start();
    start(&agent, "echo ready; sleep 1000");
    let mut talk = follow(&agent, Some(0));
    talk.hear_text("ready");
    let signal = Request::SignalMain(libc::SIGKILL);
    assert_eq!(agent.ask(PARENT, &signal), Reply::Ok);
    assert_eq!(talk.end().status, 128 + libc::SIGKILL);
    // It is gone; there is no other process to signal by mistake.
    assert_eq!(agent.ask(PARENT, &signal), Reply::Ok);
}

#[test]
fn it_may_have_a_terminal() {
    let agent = Agent::start();
    let mut command = sh("tty; stty size");
    command.tty = Some(WindowSize { rows: 11, cols: 22 });
    let started = agent.ask(PARENT, &Request::StartMain(command));
    assert_eq!(started, Reply::Ok);
    let text = String::from_utf8(follow(&agent, Some(0)).end().stdout).unwrap();
    assert!(
        text.starts_with("/dev/pts/") && text.ends_with("11 22\r\n"),
        "{text}"
    );
}

#[test]
fn there_is_one_and_no_more() {
    let agent = Agent::start();
    let refused = |request: &Request| {
        matches!(
            agent.ask(PARENT, request),
            Reply::Failed(Failure::Refused(_))
        )
    };
    assert!(refused(&Request::FollowMain { from: None }));
    assert!(refused(&Request::SignalMain(15)));
    assert!(refused(&Request::StartMain(with_stdin(sh("true")))));
    let missing = Request::StartMain(command(&["no-such-program"]));
    let not_found = Failure::NotFound("no-such-program".to_owned());
    assert_eq!(agent.ask(PARENT, &missing), Reply::Failed(not_found));
    start(&agent, "true");
    assert!(refused(&Request::StartMain(sh("true"))));
    assert!(refused(&Request::SignalMain(100_000)) || follow(&agent, None).end().status == 0);
}
