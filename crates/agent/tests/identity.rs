//! The machine's identity, and what the agent does before it has one.
#![allow(clippy::unwrap_used)]

mod support;

use hyperfork_api::Secrets;
use hyperfork_api::guest::{Failure, GuestIdentity, Reply, Request, Stream};
use support::*;

#[test]
fn a_machine_that_does_not_know_who_it_is_only_answers_pings() {
    let agent = Agent::unidentified();
    assert_eq!(agent.ask(PARENT, &Request::Ping), Reply::Ok);
    for request in [
        Request::Exec(command(&["true"])),
        Request::StartMain(command(&["true"])),
        Request::FollowMain { from: None },
        Request::SignalMain(15),
        Request::CopyIn {
            path: "/tmp".to_owned(),
        },
        Request::CopyOut {
            path: "/etc/passwd".to_owned(),
        },
    ] {
        let reply = agent.ask(PARENT, &request);
        assert!(
            matches!(reply, Reply::Failed(Failure::Refused(_))),
            "{request:?}: {reply:?}"
        );
    }
}

#[test]
fn an_identity_is_confirmed_and_written_down_for_programs() {
    let agent = Agent::unidentified();
    let Reply::Identified { version } = agent.identify(PARENT) else {
        panic!("not identified");
    };
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    let read = || -> GuestIdentity {
        serde_json::from_str(&content(&agent.path("identity.json")).unwrap()).unwrap()
    };
    let expected = |cid: u32| {
        let identity = identity(cid);
        GuestIdentity {
            generation: identity.generation,
            name: identity.name.to_string(),
            index: identity.index,
            cid,
            generation_again: identity.generation,
        }
    };
    assert_eq!(read(), expected(PARENT));
    agent.identify(CLONE);
    assert_eq!(read(), expected(CLONE));
}

#[test]
fn an_identity_meant_for_another_machine_is_refused() {
    let agent = Agent::start();
    let request = Request::Identify {
        identity: identity(PARENT),
        realtime_ns: 0,
        shares: Vec::new(),
        secrets: Secrets::default(),
    };
    let reply = agent.ask(CLONE, &request);
    assert!(matches!(reply, Reply::Failed(Failure::Refused(_))));
    assert_eq!(agent.exec(command(&["true"])).end().status, 0);
}

#[test]
fn a_clone_does_nothing_until_it_has_its_own_identity() {
    let agent = Agent::start();
    let exec = Request::Exec(command(&["true"]));
    let reply = agent.ask(CLONE, &exec);
    assert!(matches!(reply, Reply::Failed(Failure::Refused(_))));
    assert!(matches!(agent.identify(CLONE), Reply::Identified { .. }));
    assert_eq!(agent.ask(CLONE, &exec), Reply::Streaming);
    // It is not the parent any more.
    let reply = agent.ask(PARENT, &exec);
    assert!(matches!(reply, Reply::Failed(Failure::Refused(_))));
}

#[test]
fn a_clone_drops_its_parents_conversations_and_their_programs_run_on() {
    let agent = Agent::start();
    let file = agent.path("ran-on");
    let script = format!(
        "echo ready; cat; head -c 1000000 /dev/zero; echo yes > {}",
        file.display()
    );
    let mut plain = agent.exec(with_stdin(sh(&script)));
    plain.hear_text("ready");
    let mut terminal = agent.exec(on_terminal(sh("echo ready $$; sleep 1000")));
    terminal.hear_text("ready");
    let shell_file = agent.path("end-of-input");
    let script = format!(
        "trap 'echo hung up > {0}' HUP; echo ready; cat; echo yes > {0}",
        shell_file.display()
    );
    let mut shell = agent.exec(on_terminal(sh(&script)));
    shell.hear_text("ready");
    let mut waiting = agent.connect(PARENT);
    agent.identify(CLONE);
    for file in [&file, &shell_file] {
        wait_until("the program came to its end", || {
            content(file).is_ok_and(|text| text == "yes\n")
        });
    }
    assert!(plain.is_closed() && terminal.is_closed() && waiting.is_closed());
    let children = format!("/proc/{pid}/task/{pid}/children", pid = agent.pid());
    wait_until("only the one on the terminal is left", || {
        content(children.as_ref()).is_ok_and(|alive| alive.split_whitespace().count() == 1)
    });
}

#[test]
fn the_main_program_is_followed_across_a_fork() {
    let agent = Agent::start();
    let go = agent.path("go");
    let script = format!(
        "echo before; while [ ! -e {} ]; do sleep 0.01; done; echo after; exit 4",
        go.display()
    );
    assert_eq!(
        agent.ask(PARENT, &Request::StartMain(sh(&script))),
        Reply::Ok
    );
    let mut talk = agent.connect(PARENT);
    talk.say(&Request::FollowMain { from: Some(0) });
    assert_eq!(talk.hear::<Reply>(), Reply::Streaming);
    talk.hear_text("before\n");
    // What it writes before the clone has its identity is not lost: a client that follows the
    // output knows how much of the parent's output it has.
    std::fs::write(&go, "").unwrap();
    talk.hear_text("after\n");

    assert!(matches!(agent.identify(CLONE), Reply::Identified { .. }));
    let mut talk = agent.connect(CLONE);
    talk.say(&Request::FollowMain { from: Some(7) });
    assert_eq!(talk.hear::<Reply>(), Reply::Streaming);
    let end = talk.end();
    assert_eq!(
        (end.status, end.stdout.as_slice()),
        (4, b"after\n".as_slice())
    );
}

#[test]
fn power_off_is_confirmed_and_then_happens() {
    for mut agent in [Agent::start(), Agent::unidentified()] {
        assert_eq!(agent.ask(PARENT, &Request::PowerOff), Reply::Ok);
        assert!(agent.wait().success());
    }
}

#[test]
fn a_termination_signal_powers_off() {
    let mut agent = Agent::start();
    let pid = agent.pid().to_string();
    assert!(quiet("kill").arg(pid).status().unwrap().success());
    assert!(agent.wait().success());
}

#[test]
fn a_copy_that_was_under_way_ends_with_its_connection() {
    let agent = Agent::start();
    let mut talk = agent.connect(PARENT);
    let path = agent.path("").display().to_string();
    talk.say(&Request::CopyIn { path });
    assert_eq!(talk.hear::<Reply>(), Reply::Streaming);
    talk.say(&Stream::Data(vec![0; 100]));
    drop(talk);
    wait_until("its thread has ended", || {
        let tasks = format!("/proc/{}/task", agent.pid());
        std::fs::read_dir(tasks).unwrap().count() == 1
    });
}
