//! Programs that the host starts.
#![allow(clippy::unwrap_used)]

mod support;

use hyperfork_api::frame::{self, CHUNK};
use hyperfork_api::guest::{Failure, Reply, Request, Stream, WindowSize};
use std::io::Write;
use std::net::Shutdown;
use support::*;

#[test]
fn a_programs_streams_are_kept_apart_and_its_status_is_told() {
    let agent = Agent::start();
    let mut talk = agent.exec(sh("echo out; echo err >&2; exit 7"));
    let end = talk.end();
    assert_eq!(
        end,
        End {
            status: 7,
            stdout: b"out\n".to_vec(),
            stderr: b"err\n".to_vec(),
            ..End::default()
        }
    );
    assert!(talk.is_closed());
}

#[test]
fn a_program_reads_its_input_to_the_end() {
    let agent = Agent::start();
    let mut talk = agent.exec(with_stdin(sh("cat; echo done >&2")));
    talk.say(&Stream::Stdin(b"hello ".to_vec()));
    talk.say(&Stream::Stdin(b"world".to_vec()));
    talk.say(&Stream::StdinEnd);
    let end = talk.end();
    assert_eq!(end.stdout, b"hello world");
    assert_eq!(end.stderr, b"done\n");
}

#[test]
fn a_program_without_input_reads_none() {
    let agent = Agent::start();
    assert_eq!(agent.exec(command(&["cat"])).end(), End::default());
}

#[test]
fn input_for_a_program_that_reads_none_is_dropped() {
    let agent = Agent::start();
    let mut talk = agent.exec(with_stdin(sh(
        "exec <&-; read x; echo still here; sleep 0.1",
    )));
    talk.hear_text("still here");
    talk.say(&Stream::Stdin(vec![b'x'; CHUNK]));
    assert_eq!(talk.end().status, 0);
    assert!(agent.is_alive());
}

#[test]
fn environment_directory_and_arguments_are_as_asked() {
    let agent = Agent::start();
    let mut asked = sh(r#"echo "$INHERITED|$ADDED|$(pwd)|$0|$1""#);
    asked.argv.extend(["zero".to_owned(), "a b\nc".to_owned()]);
    asked.env = vec![("ADDED".to_owned(), "x=y".to_owned())];
    asked.cwd = Some("/usr".to_owned());
    let end = agent.exec(asked).end();
    let text = String::from_utf8(end.stdout).unwrap();
    assert_eq!(text, "from the kernel|x=y|/usr|zero|a b\nc\n");
}

#[test]
fn a_commands_path_is_searched() {
    let agent = Agent::start();
    let mut asked = command(&["true"]);
    asked.env = vec![("PATH".to_owned(), "/nowhere".to_owned())];
    let not_found = Failure::NotFound("true".to_owned());
    assert_eq!(agent.exec_failure(asked), not_found);
}

#[test]
fn what_cannot_be_run_says_why() {
    let agent = Agent::start();
    let not_found = |name: &str| Failure::NotFound(name.to_owned());
    assert_eq!(
        agent.exec_failure(command(&["no-such-program"])),
        not_found("no-such-program")
    );
    assert_eq!(
        agent.exec_failure(command(&["/no/such"])),
        not_found("/no/such")
    );
    assert_eq!(agent.exec_failure(command(&[""])), not_found(""));
    let not_executable = |asked| match agent.exec_failure(asked) {
        Failure::NotExecutable { reason, .. } => reason,
        other => panic!("{other:?}"),
    };
    assert!(not_executable(command(&["/etc/passwd"])).contains("ermission"));
    assert!(not_executable(command(&["true", "a\0b"])).contains("nul byte"));
    let mut asked = command(&["true"]);
    asked.cwd = Some("/no/such".to_owned());
    assert!(not_executable(asked).contains("/no/such"));
    assert!(matches!(
        agent.exec_failure(command(&[])),
        Failure::Refused(_)
    ));
}

#[test]
fn signals_reach_the_whole_process_group_and_show_in_the_status() {
    let agent = Agent::start();
    let mut talk = agent.exec(sh("sleep 1000 & echo ready; wait"));
    talk.hear_text("ready");
    talk.say(&Stream::Signal(libc::SIGTERM));
    assert_eq!(talk.end().status, 128 + libc::SIGTERM);

    let mut talk = agent.exec(sh(
        "trap 'echo caught; exit 3' USR1; echo ready; while :; do sleep 0.01; done",
    ));
    talk.hear_text("ready");
    talk.say(&Stream::Signal(100_000));
    talk.say(&Stream::Signal(libc::SIGUSR1));
    let end = talk.end();
    assert_eq!(
        (end.status, end.stdout.as_slice()),
        (3, b"caught\n".as_slice())
    );
}

#[test]
fn a_program_starts_with_default_signals_and_no_descriptors_of_the_agents() {
    let agent = Agent::start();
    let end = agent
        .exec(sh("cat /proc/self/status; ls -l /proc/self/fd"))
        .end();
    let text = String::from_utf8(end.stdout).unwrap();
    let mask = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
    };
    assert_eq!(mask("SigBlk:"), 0);
    // The test's own start of the agent may have left real-time signals ignored.
    assert_eq!(mask("SigIgn:") & 0x7fff_ffff, 0);
    assert!(
        !text.contains("socket:") && !text.contains("anon_inode"),
        "{text}"
    );
}

#[test]
fn a_terminal_is_one_and_has_a_size_that_changes() {
    let agent = Agent::start();
    let script = "trap 'stty size; exit 5' WINCH; tty; stty size; echo $TERM; \
                  while :; do sleep 0.01; done";
    let mut talk = agent.exec(on_terminal(sh(script)));
    talk.hear_text("xterm");
    let size = WindowSize {
        rows: 50,
        cols: 132,
    };
    talk.say(&Stream::Resize(size));
    let end = talk.end();
    assert_eq!(
        (end.status, end.stdout.as_slice()),
        (5, b"50 132\r\n".as_slice())
    );
}

#[test]
fn a_terminal_echoes_and_turns_control_c_into_a_signal() {
    let agent = Agent::start();
    let script = "trap 'echo interrupted; exit 9' INT; echo ready; read line; echo \"got $line\"; \
                  while :; do sleep 0.01; done";
    let mut talk = agent.exec(on_terminal(sh(script)));
    talk.hear_text("ready");
    talk.say(&Stream::Stdin(b"hello\n".to_vec()));
    talk.hear_text("got hello");
    talk.say(&Stream::Stdin(vec![3]));
    let end = talk.end();
    assert_eq!(end.status, 9);
    assert!(
        String::from_utf8(end.stdout)
            .unwrap()
            .contains("interrupted")
    );
}

#[test]
fn the_end_of_input_reaches_a_program_on_a_terminal() {
    let agent = Agent::start();
    let mut talk = agent.exec(on_terminal(sh("stty -echo; echo ready; cat; echo over")));
    talk.hear_text("ready");
    talk.say(&Stream::StdinEnd);
    talk.hear_text("over");
    assert_eq!(talk.end().status, 0);
}

#[test]
fn a_hundred_mebibytes_pass_through_a_bounded_buffer_to_a_slow_host() {
    const LEN: usize = 100 << 20;
    let agent = Agent::start();
    let mut talk = agent.exec(sh(&format!("head -c {LEN} /dev/zero; echo end >&2")));
    let (mut received, mut messages, mut ended) = (0, 0, false);
    let status = loop {
        match talk.hear() {
            Stream::Stdout(bytes) => {
                received += bytes.len();
                messages += 1;
                if messages % 100 == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
            }
            Stream::Stderr(bytes) => ended = bytes == b"end\n",
            Stream::Exited(status) => break status,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((received, ended, status), (LEN, true, 0));
    let peak = agent.peak_kib();
    assert!(peak < 8 << 10, "the agent took {peak} KiB");
}

#[test]
fn a_hundred_mebibytes_of_input_wait_for_a_slow_program() {
    const LEN: usize = 100 << 20;
    let agent = Agent::start();
    let mut talk = agent.exec(with_stdin(sh("sleep 0.3; wc -c")));
    for _ in 0..LEN / CHUNK {
        talk.say(&Stream::Stdin(vec![0; CHUNK]));
    }
    talk.say(&Stream::StdinEnd);
    let text = String::from_utf8(talk.end().stdout).unwrap();
    assert_eq!(text.trim(), LEN.to_string());
    let peak = agent.peak_kib();
    assert!(peak < 16 << 10, "the agent took {peak} KiB");
}

#[test]
fn a_hundred_mebibytes_go_round_through_cat() {
    const LEN: usize = 100 << 20;
    let agent = Agent::start();
    let mut talk = agent.exec(with_stdin(command(&["cat"])));
    let mut writer = talk.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        for _ in 0..LEN / CHUNK {
            frame::write(&mut writer, &Stream::Stdin(vec![1; CHUNK])).unwrap();
        }
        frame::write(&mut writer, &Stream::StdinEnd).unwrap();
    });
    let end = talk.end();
    sender.join().unwrap();
    assert_eq!((end.status, end.stdout.len()), (0, LEN));
    assert!(end.stdout.iter().all(|byte| *byte == 1));
}

#[test]
fn fifty_programs_run_at_once() {
    let agent = Agent::start();
    let mut talks: Vec<_> = (0..50)
        .map(|k| agent.exec(with_stdin(sh(&format!("read x; echo {k} $x; exit {k}")))))
        .collect();
    for talk in talks.iter_mut().rev() {
        talk.say(&Stream::Stdin(b"now\n".to_vec()));
    }
    for (k, talk) in talks.iter_mut().enumerate() {
        let end = talk.end();
        assert_eq!(end.status, k as i32);
        assert_eq!(end.stdout, format!("{k} now\n").into_bytes());
    }
}

#[test]
fn one_slow_host_does_not_hold_up_another() {
    let agent = Agent::start();
    let slow = agent.exec(command(&["yes"]));
    let end = agent.exec(sh("echo quick")).end();
    assert_eq!(end.stdout, b"quick\n");
    drop(slow);
}

#[test]
fn what_a_program_leaves_in_the_background_does_not_hold_up_its_end() {
    let agent = Agent::start();
    let file = agent.path("background");
    let script = format!(
        "(sleep 0.2; echo late; echo late >&2; echo survived > {}) & echo early",
        file.display()
    );
    let end = agent.exec(sh(&script)).end();
    assert_eq!(
        (end.status, end.stdout.as_slice()),
        (0, b"early\n".as_slice())
    );
    wait_until("the background process survived writing", || {
        content(&file).is_ok_and(|text| text == "survived\n")
    });
}

#[test]
fn a_background_that_writes_for_ever_does_not_hold_up_the_end_of_its_program() {
    let agent = Agent::start();
    let mut talk = agent.exec(sh("yes & sleep 0.1; echo $! >&2"));
    let end = talk.end();
    assert_eq!(end.status, 0);
    let yes = String::from_utf8(end.stderr).unwrap();
    assert!(quiet("kill").arg(yes.trim()).status().unwrap().success());
}

#[test]
fn a_program_runs_on_when_its_connection_is_lost() {
    let agent = Agent::start();
    for (how, asked) in [
        (
            "pipes",
            with_stdin(sh(
                "echo ready; cat; head -c 3000000 /dev/zero; echo end > $F",
            )),
        ),
        (
            "terminal",
            on_terminal(sh("trap 'exit 1' HUP; echo ready; sleep 0.3; \
                                     head -c 3000000 /dev/zero; echo end > $F")),
        ),
    ] {
        let file = agent.path(how);
        let mut asked = asked;
        asked.env = vec![("F".to_owned(), file.display().to_string())];
        let mut talk = agent.exec(asked);
        talk.hear_text("ready");
        drop(talk);
        wait_until(&format!("the program on {how} came to its end"), || {
            content(&file).is_ok_and(|text| text == "end\n")
        });
    }
}

#[test]
fn a_program_whose_connection_was_reset_is_reaped_and_forgotten() {
    let agent = Agent::start();
    let descriptors = || {
        let directory = format!("/proc/{}/fd", agent.pid());
        std::fs::read_dir(directory).unwrap().count()
    };
    let before = descriptors();
    for _ in 0..20 {
        let mut talk = agent.exec(with_stdin(sh("echo ready; cat; sleep 0.05")));
        talk.hear_text("ready");
        // Unread data makes the kernel reset the connection instead of ending it.
        talk.say(&Stream::Stdin(b"x".to_vec()));
        talk.stream.shutdown(Shutdown::Read).unwrap();
    }
    wait_until("all descriptors are closed", || descriptors() <= before);
    wait_until("no child is left", || {
        let path = format!("/proc/{pid}/task/{pid}/children", pid = agent.pid());
        content(path.as_ref()).unwrap().is_empty()
    });
}

#[test]
fn input_sent_together_with_the_request_is_not_lost() {
    let agent = Agent::start();
    let mut talk = agent.connect(PARENT);
    let mut bytes = frame::encode(&Request::Exec(with_stdin(command(&["cat"])))).unwrap();
    bytes.extend(frame::encode(&Stream::Stdin(b"early".to_vec())).unwrap());
    bytes.extend(frame::encode(&Stream::StdinEnd).unwrap());
    for byte in bytes {
        talk.stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(talk.hear::<Reply>(), Reply::Streaming);
    assert_eq!(talk.end().stdout, b"early");
}
