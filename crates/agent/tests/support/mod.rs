//! The real agent, as a process, on Unix sockets; and a host that talks to it.

// Each test file uses its own part of this.
#![allow(dead_code)]

use hyperfork_api::guest::{Command, Failure, Reply, Request, Stream, WindowSize};
use hyperfork_api::{Id, Identity, Secrets, VmName, frame};
use serde::{Serialize, de::DeserializeOwned};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;
use std::{fs, io, thread};
use tempfile::TempDir;

/// The CID of the machine that tests begin with.
pub(crate) const PARENT: u32 = 3;
/// The CID it has after a fork.
pub(crate) const CLONE: u32 = 4;

/// Where agents have their sockets: neither as long nor as odd a path as the checkout or
/// `TMPDIR` may have (a socket's has 107 bytes at most), and not under what an agent that
/// is PID 1 mounts something over (/tmp, /run).
pub(crate) const SHORT: &str = "/var/tmp";

/// How long anything may take before a test gives up.
const TIMEOUT: Duration = Duration::from_secs(60);

/// An agent, ended when dropped.
pub(crate) struct Agent {
    process: Child,
    directory: TempDir,
}

impl Agent {
    /// Starts one that has no identity yet.
    pub(crate) fn unidentified() -> Self {
        let directory = tempfile::tempdir_in(SHORT).unwrap();
        // The tests may run where signals are ignored, as under `nohup`.
        let mut process = std::process::Command::new("env");
        process.arg("--default-signal");
        process.arg(env!("CARGO_BIN_EXE_hyperfork-agent"));
        process.arg("--listen").arg(directory.path());
        process.args([PARENT, CLONE].map(|cid| cid.to_string()));
        let process = process.env("INHERITED", "from the kernel").spawn().unwrap();
        let agent = Self { process, directory };
        wait_for(&agent.socket(CLONE));
        agent
    }

    /// Starts one that is the parent.
    pub(crate) fn start() -> Self {
        let agent = Self::unidentified();
        assert!(matches!(agent.identify(PARENT), Reply::Identified { .. }));
        agent
    }

    /// Gives it the identity of the machine with this CID.
    pub(crate) fn identify(&self, cid: u32) -> Reply {
        let request = Request::Identify {
            identity: identity(cid),
            realtime_ns: 0,
            shares: Vec::new(),
            secrets: Secrets::default(),
        };
        self.ask(cid, &request)
    }

    pub(crate) fn socket(&self, cid: u32) -> PathBuf {
        self.directory.path().join(format!("{cid}.sock"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn connect(&self, cid: u32) -> Talk {
        Talk::to(&self.socket(cid))
    }

    /// One request, one reply.
    pub(crate) fn ask(&self, cid: u32, request: &Request) -> Reply {
        let mut talk = self.connect(cid);
        talk.say(request);
        talk.hear()
    }

    /// Starts a program, which must work.
    pub(crate) fn exec(&self, command: Command) -> Talk {
        let mut talk = self.connect(PARENT);
        talk.say(&Request::Exec(command));
        assert_eq!(talk.hear::<Reply>(), Reply::Streaming);
        talk
    }

    /// Starts a program, which must not work.
    pub(crate) fn exec_failure(&self, command: Command) -> Failure {
        match self.ask(PARENT, &Request::Exec(command)) {
            Reply::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.ask(PARENT, &Request::Ping) == Reply::Ok
    }

    /// Waits for its process to end.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.process.wait().unwrap()
    }

    /// Kilobytes of memory it had at most.
    pub(crate) fn peak_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let number = line.unwrap().split_whitespace().nth(1);
        number.unwrap().parse().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A conversation, from the host's side.
pub(crate) struct Talk {
    pub(crate) stream: UnixStream,
}

/// How a program ended, and all that it wrote.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) status: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// Bytes that were not kept.
    pub(crate) skipped: u64,
}

impl Talk {
    pub(crate) fn to(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        Self { stream }
    }

    pub(crate) fn say<T: Serialize>(&mut self, message: &T) {
        frame::write(&mut self.stream, message).unwrap();
    }

    pub(crate) fn hear<T: DeserializeOwned>(&mut self) -> T {
        frame::read(&mut self.stream)
            .unwrap()
            .expect("the agent hung up")
    }

    /// Whether the agent has closed the connection, between messages.
    pub(crate) fn is_closed(&mut self) -> bool {
        matches!(frame::read::<Stream>(&mut self.stream), Ok(None))
    }

    /// Listens until the program has written this.
    pub(crate) fn hear_text(&mut self, text: &str) {
        let mut heard = String::new();
        while !heard.contains(text) {
            match self.hear() {
                Stream::Stdout(bytes) => heard.push_str(&String::from_utf8_lossy(&bytes)),
                other => panic!("{other:?} instead of '{text}' after '{heard}'"),
            }
        }
    }

    /// Listens until the program has ended.
    pub(crate) fn end(&mut self) -> End {
        let mut end = End::default();
        loop {
            match self.hear() {
                Stream::Stdout(bytes) => end.stdout.extend(bytes),
                Stream::Stderr(bytes) => end.stderr.extend(bytes),
                Stream::Skipped(len) => end.skipped += len,
                Stream::Exited(status) => {
                    end.status = status;
                    return end;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// The test's identity for a CID.
pub(crate) fn identity(cid: u32) -> Identity {
    let id = |which: u8| {
        let mut bytes = [which; Id::LEN];
        bytes[0] = cid as u8;
        Id::from_random(bytes)
    };
    Identity {
        network: None,
        name: VmName::new(format!("vm-{cid}")).unwrap(),
        index: cid - PARENT,
        generation: cid - PARENT,
        cid,
        seed: vec![cid as u8; Identity::SEED_LEN],
        machine_id: id(1),
        boot_id: id(2),
        token: id(3),
    }
}

/// A command without input or terminal.
pub(crate) fn command(argv: &[&str]) -> Command {
    Command {
        argv: argv.iter().map(|&argument| argument.to_owned()).collect(),
        env: Vec::new(),
        cwd: None,
        tty: None,
        stdin: false,
    }
}

/// A shell script without input or terminal.
pub(crate) fn sh(script: &str) -> Command {
    command(&["sh", "-c", script])
}

/// The same with input.
pub(crate) fn with_stdin(command: Command) -> Command {
    Command {
        stdin: true,
        ..command
    }
}

/// The same on a terminal, with input.
pub(crate) fn on_terminal(command: Command) -> Command {
    let size = WindowSize { rows: 24, cols: 80 };
    Command {
        tty: Some(size),
        stdin: true,
        ..command
    }
}

/// Waits until a file is there.
pub(crate) fn wait_for(path: &Path) {
    wait_until(&format!("{} is there", path.display()), || path.exists());
}

/// Waits until something is so.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + TIMEOUT;
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The content of a file, if it is there.
pub(crate) fn content(path: &Path) -> io::Result<String> {
    fs::read_to_string(path)
}

/// A silenced process, for what runs beside the agent.
pub(crate) fn quiet(program: &str) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}
