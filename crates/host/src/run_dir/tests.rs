//! Tests of the run directory.

use super::*;
use crate::client::ClientError;
use crate::{identity, record};
use hyperfork_api::spec::Guest;
use hyperfork_api::{Bytes, VmSpec};
use rustix::fs::{FlockOperation, flock};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

fn run_dir() -> (tempfile::TempDir, RunDir) {
    let temp = tempfile::tempdir().unwrap();
    let dir = RunDir::at(temp.path().to_owned());
    (temp, dir)
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
    let info = record::initial_info(&spec, &identity::booted(&name).unwrap(), None);
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
