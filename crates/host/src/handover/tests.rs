//! A process that ends, or cannot begin, is told as that, whatever the socket's error is.

use super::*;
use crate::config::PoolConfig;
use crate::run_dir::RunDir;
use hyperfork_api::Bytes;
use hyperfork_net::address::Pool as AddressPool;
use hyperfork_sys::fds::FdTable;
use std::fs::File;

/// The two ends of a process in a directory that is removed with the result.
fn ends() -> (tempfile::TempDir, LauncherEnd, UnixStream) {
    let temp = tempfile::tempdir().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let name = VmName::new("p").unwrap();
    let dir = RunDir::at(temp.path().to_owned()).vm(&name);
    (temp, LauncherEnd::taken(ours, dir), theirs)
}

#[test]
fn a_process_that_was_killed_has_ended_whatever_was_on_its_way() {
    const ENDED: &str = "its process ended unexpectedly";
    // With an order that it has not read, its end is a reset.
    let (_temp, launcher, process) = ends();
    launcher.preload(vec![0; 16], &FdTable::default()).unwrap();
    drop(process);
    match launcher.progress() {
        Progress::Failed(error) => assert_eq!(error.to_string(), ENDED),
        progress => panic!("{progress:?}"),
    }
    assert_eq!(launcher.release().unwrap_err().to_string(), ENDED);

    // In the middle of a report.
    let (_temp, launcher, process) = ends();
    io::Write::write_all(&mut &process, &[9, 0, 0, 0, 0, 0, 0, 0, 1]).unwrap();
    drop(process);
    match launcher.progress() {
        Progress::Failed(error) => assert_eq!(error.to_string(), ENDED),
        progress => panic!("{progress:?}"),
    }
}

#[test]
fn a_report_that_is_none_is_told_as_such() {
    let (_temp, launcher, process) = ends();
    scm::send(&process, b"nonsense", &[]).unwrap();
    match launcher.progress() {
        Progress::Failed(error) => {
            assert!(error.to_string().contains("makes no sense"), "{error}");
        }
        progress => panic!("{progress:?}"),
    }
}

#[test]
fn a_process_without_a_launcher_says_who_starts_it() {
    let input = OwnedFd::from(File::open("/dev/null").unwrap());
    let error = VmEnd::new(input.into()).build_shell().unwrap_err();
    assert!(
        error.to_string().contains("is started by hyperfork"),
        "{error}"
    );
}

#[test]
fn a_lock_without_space_is_told_with_its_directory() {
    let (temp, launcher, process) = ends();
    let order = BuildShell {
        run_dir: temp.path().to_owned(),
        dir: launcher.dir().clone(),
        shape: Shape {
            cpus: 1,
            memory: Bytes::mib(64),
            rings: Vec::new(),
            net: None,
            shares: false,
        },
        warm: false,
        settings: Settings {
            pool: PoolConfig::DEFAULT,
            addresses: AddressPool::DEFAULT,
        },
    };
    let (socket, _dir) = launcher.into_parts();
    let full = File::options().write(true).open("/dev/full").unwrap();
    send(&socket.into(), &order, &[full.into()]).unwrap();
    let error = VmEnd::new(process).build_shell().unwrap_err();
    let error = Error::of_any(&error).to_string();
    let directory = temp.path().join("p");
    let told = format!(
        "cannot write the lock in {}: No space left",
        directory.display()
    );
    assert!(error.starts_with(&told), "{error}");
}
