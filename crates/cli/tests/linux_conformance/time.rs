//! Clocks and timers.

use crate::guest::{Guest, forks_or};
use crate::support::{User, eventually};
use crate::witness::CLOCK;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[test]
fn time_goes_on_in_the_parent_and_in_clones() {
    let user = User::new();
    let parent = Guest::boot_watched(&user, "p", &CLOCK);
    clocks_never_go_back_on_any_cpu_and_are_right_in_clones(&user, &parent);
    a_sleeping_program_wakes_once_and_not_too_early(&user, &parent);
}

/// The number of forks, unless more are wanted. The clones of so many are asked for the time, which
/// takes longer than all the rest.
const FORKS: usize = 5;

/// By how much a clock may be off from the host's, milliseconds, as seen in the guest.
const MAX_OFF_MS: i64 = 10;

/// Much longer than that.
const PAUSE: Duration = Duration::from_secs(4);

/// A guest's clocks, milliseconds.
#[derive(Debug)]
struct Clocks {
    /// `CLOCK_REALTIME` less the host's.
    ahead: i64,
    monotonic: i64,
    boottime: i64,
}

impl Clocks {
    fn of(guest: &Guest<'_>) -> Self {
        let told = guest.ask(&["witness", "time"]);
        let numbers = told
            .split_whitespace()
            .map(|number| number.parse().unwrap());
        let [ahead, monotonic, boottime] = numbers.collect::<Vec<_>>().try_into().unwrap();
        Self {
            ahead,
            monotonic,
            boottime,
        }
    }
}

fn clocks_never_go_back_on_any_cpu_and_are_right_in_clones(user: &User, parent: &Guest<'_>) {
    for fork in 1..=forks_or(FORKS) {
        let clone = parent.fork(1).remove(0);
        clone.must_go_on();
        if fork <= FORKS {
            must_have_the_right_time(&clone);
            clone.must_be_at_peace();
        }
        clone.remove();
        println!("fork {fork}: no clock has gone back");
    }
    a_pause_is_not_lived_through_but_told(user, parent);
}

fn a_pause_is_not_lived_through_but_told(user: &User, parent: &Guest<'_>) {
    let begun = Instant::now();
    let before = Clocks::of(parent);
    user.ok(&["pause", "p"]);
    let awake_until = begun.elapsed();
    sleep(PAUSE);
    let forked = Instant::now();
    let clone = parent.fork(1).remove(0);
    let awake_again = Instant::now();
    user.ok(&["resume", "p"]);
    for (guest, awake_again) in [(parent, awake_again), (&clone, forked)] {
        must_have_the_right_time(guest);
        let now = Clocks::of(guest);
        // These have stood still during the pause.
        let lived = [
            now.monotonic - before.monotonic,
            now.boottime - before.boottime,
        ];
        let most = awake_until + awake_again.elapsed() + Duration::from_millis(100);
        let fits = |lived: i64| (0..=most.as_millis() as i64).contains(&lived);
        assert!(
            lived.into_iter().all(fits),
            "{}: {before:?}, {now:?}, {most:?}",
            guest.name
        );
        guest.must_go_on();
        guest.must_be_at_peace();
    }
    clone.remove();
}

/// A guest's clock is right: by what it finds itself, and give or take the time that
/// asking takes.
fn must_have_the_right_time(guest: &Guest<'_>) {
    let clocks = Clocks::of(guest);
    assert!(
        clocks.ahead.abs() <= MAX_OFF_MS,
        "{}: {clocks:?}",
        guest.name
    );
    let host = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let before = host();
    let date = guest.ask(&["date", "+%s"]);
    let date: u64 = date.trim().parse().unwrap();
    let possible = before.as_secs() - 1..=host().as_secs() + 1;
    assert!(
        possible.contains(&date),
        "{}: {date} is not in {possible:?}",
        guest.name
    );
}

fn a_sleeping_program_wakes_once_and_not_too_early(user: &User, parent: &Guest<'_>) {
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
    let expected = ["nanosleep", "set", "signal", "time of day", "timerfd"];
    eventually("all wakers", || timers(guest).len() >= expected.len());
    // Whatever comes twice comes in this second.
    guest.ask(&["sleep", "1"]);
    assert_eq!(timers(guest), expected, "{}", guest.name);
}
