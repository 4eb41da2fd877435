//! Tests of the run directory.

use super::*;
use crate::client::ClientError;
use crate::{identity, record};
use hyperfork_api::spec::Guest;
use hyperfork_api::{Bytes, VmInfo, VmSpec};
use rustix::fs::{CWD, FileType, FlockOperation, Mode, flock, mknodat};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

fn run_dir() -> (tempfile::TempDir, RunDir) {
    let temp = tempfile::tempdir().unwrap();
    let dir = RunDir::at(temp.path().to_owned());
    (temp, dir)
}

/// The description of a VM called `p` that is just starting.
pub(crate) fn nano_info() -> VmInfo {
    let name = VmName::new("p").unwrap();
    let spec = VmSpec {
        name: name.clone(),
        cpus: 1,
        memory: Bytes::mib(64),
        guest: Guest::Nano {
            options: String::new(),
        },
        image: "nano".to_owned(),
        max_forks: None,
        identical_clones: false,
        ready_timeout_ms: 1,
    };
    record::initial_info(&spec, &identity::booted(&name).unwrap(), None)
}

#[test]
fn a_name_is_claimed_once_and_free_again_after_removal() {
    let (_temp, run) = run_dir();
    let name = VmName::new("p").unwrap();
    let claim = run.claim(&name).unwrap();
    assert!(run.vm(&name).is_alive());
    assert!(matches!(run.claim(&name), Err(RunDirError::InUse { .. })));
    assert!(matches!(
        run.vm(&name).remove(),
        Err(RunDirError::Alive { .. })
    ));
    fs::write(run.vm(&name).info_path(), "{}").unwrap();
    drop(claim);
    assert!(!run.vm(&name).is_alive());
    assert!(matches!(run.claim(&name), Err(RunDirError::InUse { .. })));
    run.vm(&name).remove().unwrap();
    run.claim(&name).unwrap();
}

#[test]
fn a_vm_that_is_listed_as_ended_is_removed_as_soon_as_its_process_has_ended() {
    let (_temp, run) = run_dir();
    let claim = run.claim(&VmName::new("p").unwrap()).unwrap();
    let dir = claim.dir.clone();
    let mut info = nano_info();
    record::write_info(&dir, &info).unwrap();
    assert!(matches!(dir.remove(), Err(RunDirError::Alive { .. })));
    info.status.state = hyperfork_api::VmState::Stopped;
    record::write_info(&dir, &info).unwrap();
    std::thread::scope(|scope| {
        let removing = scope.spawn(|| dir.remove());
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(dir.exists());
        drop(claim);
        removing.join().unwrap().unwrap();
    });
    assert!(!dir.exists());
}

#[test]
fn what_a_killed_starter_left_is_neither_listed_nor_in_the_way() {
    let (_temp, run) = run_dir();
    let name = VmName::new("p").unwrap();
    drop(run.claim(&name).unwrap());
    assert_eq!(run.list().unwrap(), []);
    drop(run.claim(&name).unwrap());
    let _claim = run.claim(&name).unwrap();
    assert_eq!(run.list().unwrap(), [run.vm(&name)]);
}

#[test]
fn removing_what_is_gone_already_leaves_nothing() {
    let (_temp, run) = run_dir();
    let claim = run.claim(&VmName::new("p").unwrap()).unwrap();
    let dir = claim.dir.clone();
    claim.abandon();
    assert!(dir.remove().is_err());
    assert_eq!(fs::read_dir(run.path()).unwrap().count(), 0);
}

struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_vm_that_comes_and_goes_is_found_whole_or_not_at_all() {
    const TIMES: u32 = 200;
    let (_temp, run) = run_dir();
    let name = VmName::new("p").unwrap();
    let info = nano_info();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Also when it panics.
            let _done = Done(&done);
            for _ in 0..TIMES {
                let claim = run.claim(&name).unwrap();
                record::write_info(&claim.dir, &info).unwrap();
                let _ = flock(&claim.lock, FlockOperation::Unlock);
                // The listing below may have its lock for a moment.
                while let Err(error) = run.vm(&name).remove() {
                    assert!(matches!(error, RunDirError::Alive { .. }), "{error:?}");
                }
            }
        });
        while !done.load(Ordering::Relaxed) {
            for dir in run.list().unwrap() {
                match dir.info() {
                    Ok(found) => assert_eq!(found.about.name, name),
                    Err(ClientError::Unknown { .. } | ClientError::Starting { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
    });
    assert_eq!(run.list().unwrap(), []);
    // Removing one that is not there leaves nothing, either.
    assert!(run.vm(&name).remove().is_err());
    assert_eq!(fs::read_dir(run.path()).unwrap().count(), 0);
}

#[test]
fn a_path_too_long_for_a_socket_is_refused_before_anything_is_made() {
    let (_temp, run) = run_dir();
    let deep = RunDir::at(run.path().join("x".repeat(100)));
    assert!(matches!(
        deep.claim(&VmName::new("p").unwrap()),
        Err(RunDirError::TooDeep(_))
    ));
}

fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

/// What there is in a directory, by name.
fn entries(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_no_vms_directory_is_neither_listed_nor_changed() {
    let (_temp, run) = run_dir();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::create_dir(elsewhere.path().join("inner")).unwrap();
    symlink(elsewhere.path(), run.path().join("link")).unwrap();
    symlink(elsewhere.path(), run.shells()).unwrap();
    fs::write(run.path().join("file"), "").unwrap();
    fs::create_dir(run.path().join("empty")).unwrap();
    fs::create_dir(run.path().join("full")).unwrap();
    fs::write(run.path().join("full/data"), "").unwrap();
    let before = entries(run.path());
    assert_eq!(run.list().unwrap(), []);
    for name in ["link", "file", "empty", "full"] {
        let info = run.vm(&VmName::new(name).unwrap()).info();
        assert!(matches!(info, Err(ClientError::Unknown { .. })), "{name}");
    }
    assert_eq!(entries(run.path()), before);
    assert_eq!(entries(&run.path().join("empty")), [""; 0]);
    assert_eq!(entries(&run.path().join("full")), ["data"]);
    assert_eq!(entries(elsewhere.path()), ["inner"]);
    assert_eq!(entries(&elsewhere.path().join("inner")), [""; 0]);
}

#[test]
fn a_name_is_free_if_an_empty_directory_has_it_and_taken_if_anything_else_does() {
    let (_temp, run) = run_dir();
    symlink("/etc", run.path().join("link")).unwrap();
    fs::write(run.path().join("file"), "").unwrap();
    fs::create_dir(run.path().join("empty")).unwrap();
    fs::create_dir(run.path().join("full")).unwrap();
    fs::write(run.path().join("full/data"), "").unwrap();
    for name in ["link", "file", "full"].map(|name| VmName::new(name).unwrap()) {
        let claimed = run.claim(&name);
        assert!(matches!(claimed, Err(RunDirError::InUse { .. })), "{name}");
        assert!(run.vm(&name).is_taken(), "{name}");
    }
    run.claim(&VmName::new("empty").unwrap()).unwrap();
    assert_eq!(entries(&run.path().join("full")), ["data"]);
}

#[test]
fn a_lock_or_description_that_is_no_file_keeps_no_command_waiting() {
    let (_temp, run) = run_dir();
    for (name, file) in [("a", LOCK), ("b", INFO)] {
        let dir = run.vm(&VmName::new(name).unwrap());
        fs::create_dir(dir.path()).unwrap();
        fs::write(dir.path().join(LOCK), "").unwrap();
        fs::write(dir.path().join(INFO), "{}").unwrap();
        fs::remove_file(dir.path().join(file)).unwrap();
        fifo(&dir.path().join(file));
        assert_eq!(run.list().unwrap(), std::slice::from_ref(&dir));
        assert!(!dir.is_alive());
        assert!(dir.process().is_none());
        assert!(matches!(dir.info(), Err(ClientError::Damaged { .. })));
        crate::lifecycle::remove_by_force(&dir).unwrap();
        assert!(!dir.exists());
    }
}

#[test]
fn a_description_is_not_read_through_a_link() {
    let (_temp, run) = run_dir();
    let dir = run.claim(&VmName::new("p").unwrap()).unwrap().dir;
    let elsewhere = run.path().join(".elsewhere");
    fs::write(&elsewhere, serde_json::to_vec(&nano_info()).unwrap()).unwrap();
    symlink(&elsewhere, dir.info_path()).unwrap();
    assert!(matches!(dir.info(), Err(ClientError::Damaged { .. })));
}

#[test]
fn a_run_directory_that_others_may_enter_is_refused_with_what_to_do() {
    let (_temp, run) = run_dir();
    for (mode, is_refused) in [(0o700, false), (0o777, true), (0o710, true), (0o702, true)] {
        fs::set_permissions(run.path(), fs::Permissions::from_mode(mode)).unwrap();
        match RunDir::open(run.path().to_owned()) {
            Err(error @ RunDirError::Exposed(_)) => {
                let cure = format!("`chmod 700 {}`", run.path().display());
                assert!(is_refused && error.to_string().contains(&cure), "{error}");
            }
            opened => assert!(!is_refused && opened.is_ok(), "{mode:o}: {opened:?}"),
        }
    }
}

#[test]
fn a_run_directory_relative_to_the_working_directory_is_refused() {
    let opened = RunDir::open("target".into());
    assert!(matches!(opened, Err(RunDirError::Relative(_))));
}
