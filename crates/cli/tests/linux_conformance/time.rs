//! Clocks and timers.

use crate::guest::Guest;
use crate::support::{User, eventually};
use crate::witness::CLOCK;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[test]
fn time_goes_on_for_whoever_is_forked() {
    let user = User::new();
    let parent = Guest::boot_watched(&user, "p", &CLOCK);
    clocks_never_go_back_on_any_cpu_and_are_right_in_clones(&user, &parent);
    whoever_sleeps_wakes_once_and_not_too_early(&user, &parent);
}

/// By how much a clock may be off: it is read in whole seconds.
const MAX_OFF: Duration = Duration::from_secs(2);

fn clocks_never_go_back_on_any_cpu_and_are_right_in_clones(user: &User, parent: &Guest<'_>) {
    for _ in 0..5 {
        let clone = parent.fork(1).remove(0);
        clone.must_go_on();
        must_have_the_right_time(&clone);
        clone.must_be_at_peace();
        clone.remove();
    }
    // After a pause that is longer than a clock may be off.
    user.ok(&["pause", "p"]);
    sleep(2 * MAX_OFF);
    let clone = parent.fork(1).remove(0);
    user.ok(&["resume", "p"]);
    for guest in [parent, &clone] {
        guest.must_go_on();
        guest.must_be_at_peace();
    }
    must_have_the_right_time(&clone);
    clone.remove();
}

/// A guest's clock is right, give or take the time that asking takes.
fn must_have_the_right_time(guest: &Guest<'_>) {
    let host = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let before = host();
    let date = guest.ask(&["date", "+%s"]);
    let after = host();
    let date = Duration::from_secs(date.trim().parse().unwrap());
    assert!(
        (before - MAX_OFF..=after + MAX_OFF).contains(&date),
        "{}: {date:?} is not in {before:?} to {after:?}",
        guest.name
    );
}

fn whoever_sleeps_wakes_once_and_not_too_early(user: &User, parent: &Guest<'_>) {
    parent.sh("killall witness");
    let clones = fork_asleep(parent);
    // The last is paused while it should have woken: later, but not never.
    user.ok(&["pause", &clones[1].name]);
    must_wake(parent);
    must_wake(&clones[0]);
    user.ok(&["resume", &clones[1].name]);
    must_wake(&clones[1]);
}

/// Two clones of a guest with timers that go on sleeping after the fork: for longer
/// where the host is slow.
fn fork_asleep<'a>(parent: &Guest<'a>) -> Vec<Guest<'a>> {
    for seconds in [4, 8, 16, 32, 64] {
        parent.sh(&format!("witness timers {seconds} > /tmp/timers 2>&1 &"));
        eventually("the timers", || !timers(parent).is_empty());
        let clones = parent.fork(2);
        if timers(parent) == ["set"] {
            return clones;
        }
        clones.into_iter().for_each(Guest::remove);
        parent.sh("killall witness");
    }
    panic!("a minute is too short for a fork");
}

/// What has happened to the timers, in the order of the alphabet.
fn timers(guest: &Guest<'_>) -> Vec<String> {
    let log = guest.run("cat /tmp/timers").stdout;
    let mut lines: Vec<_> = log.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn must_wake(guest: &Guest<'_>) {
    let expected = ["nanosleep", "set", "signal", "timerfd"];
    eventually("all wakers", || timers(guest).len() >= expected.len());
    // Whatever comes twice comes in this second.
    guest.ask(&["sleep", "1"]);
    assert_eq!(timers(guest), expected, "{}", guest.name);
}
