//! The protocol for other programs: events as they happen, and peers of other versions.

mod support;
#[path = "support/trouble.rs"]
mod trouble;

use hyperfork_sys::fault;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout};
use support::{User, eventually};
use trouble::{limit_descriptors, pid_of, signal, soon, state_of};

/// `hyperfork events`, once it looks. Ends with this.
struct Events {
    process: Child,
    /// Until the test reads no more of them.
    lines: Option<BufReader<ChildStdout>>,
}

impl Events {
    fn begin(user: &User, args: &[&str]) -> Self {
        let mut all = vec!["events"];
        all.extend(args);
        let mut process = user.start(&all);
        let fds = format!("/proc/{}/fd", process.id());
        eventually("a watch on the run directory", || {
            let links = fs::read_dir(&fds).into_iter().flatten().flatten();
            let mut links = links.filter_map(|fd| fs::read_link(fd.path()).ok());
            links.any(|link| link.to_string_lossy().contains("inotify"))
        });
        let lines = process.stdout.take().map(BufReader::new);
        Self { process, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let lines = self.lines.as_mut().expect("its output");
        lines.read_line(&mut line).expect("text");
        line
    }

    /// The next `count` events, as (VM, event), and all of them.
    fn next(&mut self, count: usize) -> Vec<(String, String, Value)> {
        let event = |_| {
            let event: Value = serde_json::from_str(&self.line()).expect("an event");
            let text = |key: &str| event[key].as_str().expect("a word").to_owned();
            assert!(event["time_unix_ms"].as_u64().expect("a time") > 1_700_000_000_000);
            (text("vm"), text("event"), event.clone())
        };
        (0..count).map(event).collect()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn of<'a>(vm: &str, events: &'a [(String, String, Value)]) -> Vec<&'a str> {
    let events = events.iter().filter(|(name, ..)| name == vm);
    events.map(|(_, event, _)| event.as_str()).collect()
}

#[test]
fn a_vm_and_its_clones_are_told_of_from_their_beginning_to_their_removal() {
    let user = User::new();
    let mut events = Events::begin(&user, &["--json"]);
    user.nano("p");
    let begun = events.next(2);
    assert_eq!(of("p", &begun), ["started", "ready"]);
    assert_eq!(begun[0].2["image"], "nano");
    assert_eq!(begun[0].2["parent"], Value::Null);
    assert!(begun[1].2["ready_us"].as_u64().unwrap() > 0);

    user.ok(&["pause", "p"]);
    user.ok(&["resume", "p"]);
    let paused = events.next(2);
    assert_eq!(of("p", &paused), ["paused", "resumed"]);

    user.ok(&["fork", "p", "-n", "2"]);
    // Each clone starts, becomes ready, and sends its result.
    let forked = events.next(7);
    assert_eq!(of("p", &forked), ["forked"]);
    for clone in ["p-1", "p-2"] {
        let mut told = of(clone, &forked);
        assert_eq!(told.remove(0), "started");
        told.sort_unstable();
        assert_eq!(told, ["exited", "ready"]);
    }
    for (vm, event, value) in &forked {
        match event.as_str() {
            "forked" => assert_eq!(value["clones"], serde_json::json!(["p-1", "p-2"])),
            "started" => assert_eq!(value["parent"], "p"),
            "exited" => assert!(value["status"].is_number(), "{vm}"),
            _ => {}
        }
    }

    user.ok(&["stop", "p-1"]);
    user.ok(&["rm", "p-1"]);
    assert_eq!(of("p-1", &events.next(2)), ["stopped", "removed"]);
    // A VM that is killed cannot send the event itself.
    let pid = user.json(&["inspect", "p-2"])["pid"].as_u64().unwrap();
    let killed = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status();
    assert!(killed.unwrap().success());
    let failed = events.next(1).remove(0);
    assert_eq!((failed.0.as_str(), failed.1.as_str()), ("p-2", "failed"));
    assert!(failed.2["error"].as_str().unwrap().contains("killed"));
    user.ok(&["rm", "-f", "p", "p-2"]);
    let gone = events.next(3);
    assert_eq!(of("p", &gone), ["stopped", "removed"]);
    assert_eq!(of("p-2", &gone), ["removed"]);
}

#[test]
fn events_of_some_vms_are_told_in_words_and_end_with_their_reader() {
    let user = User::new();
    user.nano("other");
    let mut events = Events::begin(&user, &["p"]);
    user.ok(&["pause", "other"]);
    user.nano("p");
    let line = events.line();
    let words: Vec<_> = line.trim_end().splitn(3, ' ').collect();
    assert!(words[0].ends_with('Z'), "{line}");
    assert_eq!(words[1..], ["p", "started from nano"], "{line}");
    assert!(events.line().contains(" p ready after "));
    // When its reader is gone, the next event ends it silently.
    drop(events.lines.take());
    user.ok(&["pause", "p"]);
    let status = events.process.wait().unwrap();
    assert_eq!(status.code(), Some(128 + 13), "{status:?}");
    let mut said = String::new();
    let stderr = events.process.stderr.as_mut().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}

#[test]
fn a_hyperfork_of_the_first_protocol_is_told_in_its_own_form_which_one_to_use() {
    let user = User::new();
    user.nano("p");
    let socket = user.run_dir().join("p/control.sock");
    for request in [
        "{\"op\":\"info\"}\n",
        "{\"op\":\"fork\",\"count\":1,\"prefix\":null,\"strategy\":\"image\"}\n",
        "{\"op\":\"stop\",\"grace_ms\":0}\n",
    ] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        let reply: Value = serde_json::from_str(&line).unwrap();
        let words = reply["error"].as_str().unwrap();
        assert!(words.contains("an older hyperfork: use version"), "{words}");
    }
    assert_eq!(user.json(&["inspect", "p"])["state"], "running");
    assert_eq!(user.names(), ["p"]);
}

#[test]
fn the_longest_secret_there_can_be_fits_a_request() {
    let user = User::new();
    user.nano("p");
    let file = user.path("secret");
    fs::write(&file, vec![0xff; (256 << 10) - "secret".len()]).unwrap();
    let file = file.to_str().unwrap();
    // The VM has read all of it, and answers that it takes no secrets.
    let error = user.fails(1, &["fork", "p", "--secret-file", file]);
    assert!(
        error.contains("p has no agent that could take secrets"),
        "{error}"
    );
}

fn answers(user: &User) -> bool {
    user.json(&["inspect", "p"])["answers"] == true
}

#[test]
fn a_vm_that_stands_still_is_said_to_and_does_later_nothing_that_was_given_up() {
    let user = User::new();
    user.nano("p");
    let still = pid_of(&user, "p");
    signal(still, "STOP");
    eventually("standing still", || state_of(still) == Some('T'));
    for request in ["fork", "pause", "resume", "stop"] {
        let ended = soon(&user, &[request, "p"]);
        assert_eq!(ended.status, 1, "{ended:?}");
        let advice = format!("`kill -CONT {still}`");
        assert!(ended.stderr.contains("p does not answer"), "{ended:?}");
        assert!(ended.stderr.contains(&advice), "{ended:?}");
    }
    signal(still, "CONT");
    eventually("an answer of it", || answers(&user));
    // What it was asked then is not done by now: the next fork is its first.
    user.ok(&["fork", "p"]);
    assert_eq!(user.names(), ["p", "p-1"]);
    assert_eq!(user.json(&["inspect", "p"])["state"], "running");
    user.ok(&["rm", "-f", "p", "p-1"]);
    user.must_be_clean();
}

#[test]
fn a_vm_without_descriptors_is_said_not_to_answer_and_does_later_nothing_that_was_given_up() {
    let user = User::new();
    user.nano("p");
    let pid = pid_of(&user, "p");
    limit_descriptors(pid, 3);
    // accept(2) has reserved one already.
    let _idle = UnixStream::connect(user.run_dir().join("p/control.sock")).unwrap();
    let error = soon(&user, &["pause", "p"]).must_have_failed(1);
    assert!(error.contains("p does not answer"), "{error}");
    limit_descriptors(pid, 4096);
    eventually("an answer of it", || answers(&user));
    assert_eq!(user.json(&["inspect", "p"])["state"], "running");
}

#[test]
fn a_fork_whose_client_is_killed_leaves_no_clones() {
    assert!(fault::are_built(), "build the tests with debug assertions");
    let user = User::new();
    user.nano("p");
    let faults = user.run_dir().join(fault::FILE);
    // Its clone cannot become ready before the client is gone.
    fs::write(&faults, "clone.decode stop\n").unwrap();
    let mut client = user.start(&["fork", "p"]);
    let standing_still = || {
        let pids = user.processes().into_iter();
        pids.filter(|pid| state_of(*pid) == Some('T'))
            .collect::<Vec<_>>()
    };
    eventually("a clone that stands still", || !standing_still().is_empty());
    client.kill().unwrap();
    client.wait().unwrap();
    fs::remove_file(&faults).unwrap();
    for pid in standing_still() {
        signal(pid, "CONT");
    }
    eventually("its end", || user.names() == ["p"]);
    eventually("an answer of it", || answers(&user));
    user.ok(&["fork", "p"]);
    user.ok(&["rm", "-f", "p", "p-1"]);
    // The fault's own note.
    fs::remove_file(user.run_dir().join(fault::STRUCK)).unwrap();
    user.must_be_clean();
}
