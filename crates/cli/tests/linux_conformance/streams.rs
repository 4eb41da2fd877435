//! Conversations that are under way at the moment of a fork.

use crate::guest::Guest;
use crate::support::{User, eventually, finish};
use crate::terminal::Session;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

/// Where programs in the guest note that they have come to their end.
const ENDED: &str = "/tmp/ended";

#[test]
fn conversations_go_on_in_the_parent_and_end_in_a_clone_where_their_programs_run_on() {
    let user = User::new();
    let parent = Guest::boot(&user, "p", &[]);
    parent.sh(&format!("touch {ENDED}"));
    let mut output = Output::start(&parent);
    let mut input = Input::start(&user);
    let mut session = Session::start(&user, &parent);
    session.types("x=$((40+2)); echo before $((x+1))", "before 43");
    let traps = format!(
        "trap 'echo hung up >> {ENDED}' HUP; trap 'echo shell >> {ENDED}' EXIT; echo set $((x+2))"
    );
    session.types(&traps, "set 44");
    output.begin();
    input.first_half();

    let clone = parent.fork(1).remove(0);
    assert_eq!(parent.ask(&["cat", ENDED]), "", "they are done");
    // At once, whatever the connections of before are doing.
    clone.must_answer();
    // The programs of the clone have lost their connections: each of them, the shell too, reads
    // the end of its input, and ends.
    eventually("the end of the clone's programs", || {
        let ended = clone.ask(&["cat", ENDED]);
        let mut ended: Vec<_> = ended.lines().collect();
        ended.sort_unstable();
        ended == ["input", "output 0", "shell"]
    });
    input.must_have_arrived_in_part(&user, &clone);
    clone.must_be_at_peace();
    clone.remove();

    // In the parent nothing has happened.
    session.types("echo after $((x+3))", "after 45");
    session.types("test -t 0 && echo on a terminal $x", "on a terminal 42");
    output.must_be_whole();
    input.must_be_whole();
    assert_eq!(session.exit(5), Some(5));
    parent.must_be_at_peace();
}

/// How far is counted: as text more than all buffers on the way hold together.
const LAST: u32 = 150_000;

fn counting(from: u32) -> String {
    (from..=LAST).map(|n| format!("{n}\n")).collect()
}

/// A program that counts.
struct Output {
    program: Child,
    read: BufReader<ChildStdout>,
}

impl Output {
    fn start(guest: &Guest<'_>) -> Self {
        let script = format!("seq 1 {LAST}; echo output $? >> {ENDED}");
        let mut program = guest.start(&["sh", "-c", &script]);
        let read = BufReader::with_capacity(64, program.stdout.take().unwrap());
        Self { program, read }
    }

    /// Reads the first line: the rest waits.
    fn begin(&mut self) {
        let mut line = String::new();
        self.read.read_line(&mut line).unwrap();
        assert_eq!(line, "1\n");
    }

    fn must_be_whole(mut self) {
        let mut rest = String::new();
        self.read.read_to_string(&mut rest).unwrap();
        assert!(rest == counting(2), "{} bytes", rest.len());
        assert_eq!(finish(self.program).status, 0);
    }
}

/// A program that reads numbers and keeps half of them.
struct Input {
    program: Child,
    all: String,
}

impl Input {
    fn start(user: &User) -> Self {
        let script = format!("cat > /tmp/in; echo input >> {ENDED}; md5sum < /tmp/in");
        let mut command = user.command(&["exec", "-i", "p", "--", "sh", "-c", &script]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self {
            program: command.spawn().unwrap(),
            all: counting(1),
        }
    }

    fn halves(&self) -> (&str, &str) {
        self.all.split_at(self.all.len() / 2)
    }

    fn first_half(&mut self) {
        let mut stdin = self.program.stdin.as_ref().unwrap();
        stdin.write_all(self.halves().0.as_bytes()).unwrap();
    }

    /// In a clone there is what had arrived, in order, and of the rest nothing.
    fn must_have_arrived_in_part(&self, user: &User, clone: &Guest<'_>) {
        let arrived = user.path("arrived");
        let from = format!("{}:/tmp/in", clone.name);
        user.ok(&["cp", &from, arrived.to_str().unwrap()]);
        let arrived = fs::read_to_string(arrived).unwrap();
        assert!(
            self.halves().0.starts_with(&arrived),
            "{} bytes, or others",
            arrived.len()
        );
    }

    fn must_be_whole(mut self) {
        let mut stdin = self.program.stdin.take().unwrap();
        stdin.write_all(self.halves().1.as_bytes()).unwrap();
        drop(stdin);
        assert_eq!(finish(self.program).stdout, md5sum(&self.all));
    }
}

/// As the guest's program prints it.
fn md5sum(text: &str) -> String {
    let mut command = Command::new("md5sum");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    finish(child).stdout
}
