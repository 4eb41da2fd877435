//! Processes that are killed in the middle of a fork.

use crate::guest::{Guest, kill, threads_of};
use crate::held::shared;
use crate::support::{Ended, User, eventually, finish};
use crate::witness::MEMORY;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread::sleep;
use std::time::Duration;

#[test]
fn whatever_is_killed_in_a_fork_that_waits_ends_all_of_it_and_nothing_else() {
    let user = User::new();
    let (shared, volume) = shared(&user);
    let parent = Guest::boot(&user, "p", &["-v", &volume]);
    a_killed_clone_ends_the_fork_and_its_sibling_but_not_the_parent(&user, &parent, &shared);
    a_killed_parent_ends_the_fork_and_its_clones_and_who_waits_is_told(&user, parent, &shared);
    user.must_be_clean();
}

/// Starts a fork of p, whose agent is held, so that it cannot end; gives it, and the
/// processes of its two clones.
fn fork_that_cannot_end(user: &User) -> (Child, [u32; 2]) {
    let fork = user.start(&["fork", "p", "-n", "2", "-q"]);
    let mut processes = [None; 2];
    eventually("the clones' processes", || {
        processes = ["p-1", "p-2"].map(|name| process_of(user, name));
        // They run, and wait for their agents.
        let is_running = |name: &&str| user.run_dir().join(name).join("info.json").exists();
        processes.iter().all(Option::is_some) && ["p-1", "p-2"].iter().all(is_running)
    });
    (fork, processes.map(Option::unwrap))
}

/// What the process holds when nothing of a fork is left to be done in the background.
fn held_at_rest(guest: &Guest<'_>) -> (usize, usize) {
    let process = guest.pid();
    let count = |name: &str| threads_of(process).filter(|it| it == name).count();
    eventually("the fork's last work", || {
        count("births") == 0 && count("pool") == 0
    });
    // What they have left to the owner comes before this request.
    guest.info();
    eventually("the end of the request", || count("control") == 1);
    possessions(process)
}

/// Descriptors and threads of a process. Layers of its disk do not count: there is one more
/// for every fork that its guest has written something before.
fn possessions(process: u32) -> (usize, usize) {
    let fds = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let links = fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    let is_layer = |link: &PathBuf| link.to_string_lossy().contains("/.overlay-");
    let fds = links.filter(|link| !is_layer(link)).count();
    (fds, threads_of(process).count())
}

fn a_killed_clone_ends_the_fork_and_its_sibling_but_not_the_parent(
    user: &User,
    parent: &Guest<'_>,
    shared: &Path,
) {
    let process = parent.pid();
    // What a process keeps after a fork for the next, it then has.
    for _ in 0..2 {
        parent.fork(1).remove(0).remove();
    }
    let (files, threads) = held_at_rest(parent);
    for victim in [0, 1] {
        let held = parent.hold_agent(shared);
        let (fork, clones) = fork_that_cannot_end(user);
        kill(clones[victim]);
        let line = finish(fork).must_have_failed(1);
        let told = format!("p-{} did not come to life: its process ended", victim + 1);
        assert!(line.contains(&told), "{line}");
        // At once, nothing of either is left.
        assert_eq!(user.names(), ["p"]);
        eventually("the end of all others", || user.processes() == [process]);
        held.release();
        parent.must_answer();
        eventually("the end of what the fork needed", || {
            let now = possessions(process);
            now.0 <= files && now.1 <= threads
        });
    }
    parent.must_be_at_peace();
}

fn a_killed_parent_ends_the_fork_and_its_clones_and_who_waits_is_told(
    user: &User,
    parent: Guest<'_>,
    shared: &Path,
) {
    // A clone of before does not mind.
    let elder = parent.fork_as("elder", 1).remove(0);
    let command = parent.start(&["sleep", "1000"]);
    let held = parent.hold_agent(shared);
    let (fork, _) = fork_that_cannot_end(user);
    parent.kill();

    let line = finish(fork).must_have_failed(1);
    assert!(line.contains("p is not running"), "{line}");
    finish(command).must_have_failed(125);
    held.was_lost();
    let survivor = elder.pid();
    eventually("the end of all others", || user.processes() == [survivor]);
    assert_eq!(user.names(), ["elder-1", "p"]);
    elder.must_answer();
    elder.must_be_at_peace();
    parent.remove();
    elder.remove();
}

#[test]
fn when_the_parent_or_a_clone_is_killed_during_a_fork_there_are_all_clones_or_none() {
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

/// Returns true if the fork has succeeded and reported all clones. Otherwise checks that it has
/// failed with an error of one line, and waits until all clones have ended.
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
