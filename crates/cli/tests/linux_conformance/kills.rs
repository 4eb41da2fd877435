//! Processes that are killed in the middle of a fork.

use crate::guest::{Guest, kill};
use crate::support::{Ended, User, eventually, finish};
use crate::witness::MEMORY;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

#[test]
fn whoever_is_killed_at_whatever_moment_of_a_fork_there_are_all_clones_or_none() {
    let user = User::new();
    let parent = Guest::boot_watched(&user, "p", &MEMORY);
    for (moment, victim) in MOMENTS.into_iter().zip(parent.fork_as("v", MOMENTS.len())) {
        kill_a_parent_mid_fork(&user, victim, moment);
    }
    for moment in MOMENTS {
        kill_a_clone_mid_fork(&user, moment);
        parent.must_go_on();
    }
    parent.must_be_at_peace();
    parent.remove();
    user.must_be_clean();
}

/// The process of a VM that is perhaps not ready yet: the one whose errors are in the
/// VM's log.
fn process_of(user: &User, name: &str) -> Option<u32> {
    let log = user.run_dir().join(name).join("monitor.log");
    let is_its = |pid: &u32| {
        let stderr = fs::read_link(format!("/proc/{pid}/fd/2"));
        stderr.is_ok_and(|path| path == log)
    };
    user.processes().into_iter().find(is_its)
}

/// When to kill, in milliseconds: from the beginning of a fork to beyond its usual end.
const MOMENTS: [u64; 8] = [0, 5, 10, 20, 30, 50, 80, 120];

fn kill_a_parent_mid_fork(user: &User, parent: Guest<'_>, moment: u64) {
    let process = parent.pid();
    let clones = [1, 2].map(|k| parent.relative(&format!("{}-{k}", parent.name)));
    let fork = user.start(&["fork", &parent.name, "-n", "2", "-q"]);
    sleep(Duration::from_millis(moment));
    kill(process);
    if all_or_none(user, finish(fork), &clones) {
        for clone in clones {
            clone.must_go_on();
            clone.must_be_at_peace();
            clone.remove();
        }
    }
    parent.remove();
}

fn kill_a_clone_mid_fork(user: &User, moment: u64) {
    let fork = user.start(&["fork", "p", "-n", "2", "-q"]);
    let mut victim = None;
    eventually("its process", || {
        victim = process_of(user, "p-2");
        victim.is_some()
    });
    sleep(Duration::from_millis(moment));
    kill(victim.unwrap());
    let clones = ["p-1", "p-2"].map(|name| Guest::named(user, name));
    if all_or_none(user, finish(fork), &clones) {
        // It had been ready.
        clones.into_iter().for_each(Guest::remove);
    }
    assert_eq!(user.names(), ["p"]);
}

/// Whether the fork has told of all clones; or else in one line why there are none, and
/// there are none, as soon as they have had a moment to go.
fn all_or_none(user: &User, fork: Ended, clones: &[Guest<'_>]) -> bool {
    if fork.status == 0 {
        assert!(clones.iter().all(|clone| fork.stdout.contains(&clone.name)));
        return true;
    }
    fork.must_have_failed(1);
    for clone in clones {
        eventually("the end of its process", || {
            process_of(user, &clone.name).is_none()
        });
        assert!(!user.names().contains(&clone.name));
    }
    false
}
