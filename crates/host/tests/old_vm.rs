//! A VM that the first version of the protocol serves, met by this one. The VM is a process of
//! its own, since it is stopped by signals: this program is that process as well, so it has its
//! own `main`.
#![allow(clippy::unwrap_used)] // these are tests

use hyperfork_api::control::{Fork, Pause, Stop, WaitExit};
use hyperfork_api::{Code, VmName, VmState};
use hyperfork_host::lifecycle::{remove_by_force, stop};
use hyperfork_host::{Client, ClientError, RunDir, VmDir, client};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const TESTS: [(&str, fn()); 4] = [
    (
        "a_request_to_an_old_vm_fails_with_what_to_do",
        a_request_to_an_old_vm_fails_with_what_to_do,
    ),
    (
        "an_old_vm_is_listed_as_one_that_does_not_answer",
        an_old_vm_is_listed_as_one_that_does_not_answer,
    ),
    (
        "an_old_vm_is_stopped_by_a_signal",
        an_old_vm_is_stopped_by_a_signal,
    ),
    (
        "an_old_vm_that_does_not_heed_the_signal_is_removed_by_force",
        an_old_vm_that_does_not_heed_the_signal_is_removed_by_force,
    ),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, dir] = &arguments[..]
        && role == "--old-vm"
    {
        return be_old_vm(Path::new(dir));
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let chosen = TESTS
        .iter()
        .filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter.as_str())));
    let mut passed = 0;
    for (name, test) in chosen {
        // A panic ends the program with status 101, after its message.
        test();
        println!("test {name} ... ok");
        passed += 1;
    }
    println!("\ntest result: ok. {passed} passed; 0 failed");
}

/// What a VM's process of the first protocol does, byte for byte: it holds the lock, in which
/// it writes nothing, and takes each line for a request, which a line of this protocol is not.
fn be_old_vm(dir: &Path) {
    let lock = File::create(dir.join("lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let listener = UnixListener::bind(dir.join("control.sock")).unwrap();
    println!("ready");
    for stream in listener.incoming() {
        std::thread::spawn(|| converse(stream.unwrap()));
    }
}

fn converse(mut stream: UnixStream) {
    for line in BufReader::new(stream.try_clone().unwrap()).lines() {
        assert!(!line.unwrap().contains("\"op\""), "it would be obeyed");
        let answer = b"{\"error\":\"not a request: missing field `op` at line 1 column 46\"}\n";
        let _ = stream.write_all(answer);
    }
}

/// An old VM. It ends with this.
struct OldVm {
    _folder: tempfile::TempDir,
    dir: VmDir,
    process: Child,
}

impl OldVm {
    fn start(heeds_signals: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = RunDir::open(folder.path().join("run")).unwrap();
        let dir = run_dir.vm(&VmName::new("old").unwrap());
        fs::create_dir(dir.path()).unwrap();
        let info = r#"{"name":"old","state":"running","pid":1,"token":"44619345","forks":3}"#;
        fs::write(dir.info_path(), info).unwrap();
        let itself = std::env::current_exe().unwrap();
        let mut command = Command::new("sh");
        // Ignored signals are inherited.
        let trap = if heeds_signals { "" } else { "trap '' TERM;" };
        command.args(["-c", &format!("{trap} exec \"$0\" --old-vm \"$1\"")]);
        command.arg(itself).arg(dir.path()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut said = String::new();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        output.read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n");
        Self {
            _folder: folder,
            dir,
            process,
        }
    }
}

impl Drop for OldVm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn must_be_told(error: &ClientError) {
    assert_eq!(error.code(), Code::UnsupportedVersion);
    let message = error.to_string();
    assert!(message.contains("by an older hyperfork"), "{message}");
    assert!(message.contains("`hyperfork stop old`"), "{message}");
    assert!(!message.contains('\n'), "{message}");
}

fn a_request_to_an_old_vm_fails_with_what_to_do() {
    let old = OldVm::start(true);
    let ask = || Client::connect(&old.dir).unwrap();
    must_be_told(&ask().ask(Pause {}).unwrap_err());
    must_be_told(&ask().ask(WaitExit {}).unwrap_err());
    must_be_told(&ask().ask(Fork::new(2)).unwrap_err());
    let within = Duration::from_secs(60);
    must_be_told(&ask().ask_within(Stop { grace_ms: 0 }, within).unwrap_err());
}

fn an_old_vm_is_listed_as_one_that_does_not_answer() {
    let old = OldVm::start(true);
    let mut infos = client::infos(std::slice::from_ref(&old.dir));
    let info = infos.remove(0).unwrap();
    assert_eq!(info.status.state, VmState::Running);
    assert!(!info.status.answers);
    assert_eq!(info.status.forks, 3);
    assert!(info.status.error.unwrap().contains("an older hyperfork"));
}

fn an_old_vm_is_stopped_by_a_signal() {
    let mut old = OldVm::start(true);
    stop(&old.dir, Duration::from_secs(10)).unwrap();
    assert!(!old.process.wait().unwrap().success());
    assert!(!old.dir.is_alive());
    let info = old.dir.info().unwrap();
    assert!(info.status.answers, "an ended VM is not waited for");
    old.dir.remove().unwrap();
}

fn an_old_vm_that_does_not_heed_the_signal_is_removed_by_force() {
    let old = OldVm::start(false);
    remove_by_force(&old.dir).unwrap();
    assert!(!old.dir.exists());
}
