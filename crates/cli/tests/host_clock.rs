//! Guests of a host whose clock is set. On a host that the tests have for themselves.

mod support;

use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::{User, eventually};

/// Set only on a host whose clock the test may change.
const MAY_SET: &str = "HYPERFORK_TEST_MAY_SET_CLOCK";

const HOUR: i64 = 3600;

#[test]
#[ignore = "sets the host's clock; `cargo xtask test` has a host for it"]
fn a_guest_follows_when_the_hosts_clock_is_set_and_its_own_time_does_not_jump() {
    assert!(std::env::var_os(MAY_SET).is_some(), "set {MAY_SET}");
    let user = User::new();
    let boot = "run -d --quiet --name p --image base --cpus 2 --memory 256MiB";
    let boot: Vec<&str> = boot.split_whitespace().collect();
    assert_eq!(user.ok(&boot), "p\n");
    let in_guest = |vm: &str, script: &str| user.ok(&["exec", vm, "--", "sh", "-c", script]);

    let begun = Instant::now();
    let uptime = |vm: &str| {
        in_guest(vm, "cat /proc/uptime")
            .split('.')
            .next()
            .unwrap()
            .parse()
    };
    let first: u64 = uptime("p").unwrap();
    in_guest(
        "p",
        "(sleep 3; echo woken >> /tmp/woken) > /dev/null 2>&1 &",
    );

    // As a pause of an hour is for CLOCK_REALTIME.
    user.ok(&["pause", "p"]);
    put_forward(HOUR);
    user.ok(&["fork", "p"]);
    user.ok(&["resume", "p"]);
    for vm in ["p", "p-1"] {
        must_have_the_hosts_time(&in_guest(vm, "date +%s"), vm);
    }
    // Set back, in a pause and while it runs.
    user.ok(&["pause", "p"]);
    put_forward(-2 * HOUR);
    user.ok(&["resume", "p"]);
    must_have_the_hosts_time(&in_guest("p", "date +%s"), "p");
    put_forward(-HOUR);
    must_have_the_hosts_time(&in_guest("p", "date +%s"), "p");
    put_forward(2 * HOUR);

    for vm in ["p", "p-1"] {
        must_have_the_hosts_time(&in_guest(vm, "date +%s"), vm);
        // No program has slept for an hour, for less than it asked for, or twice.
        let woken = || in_guest(vm, "cat /tmp/woken 2> /dev/null || true");
        eventually("the end of a sleep", || !woken().is_empty());
        in_guest(vm, "sleep 1");
        assert_eq!(woken(), "woken\n", "{vm}");
        let now: u64 = uptime(vm).unwrap();
        let most = begun.elapsed() + Duration::from_secs(2);
        let lived = Duration::from_secs(now - first);
        assert!(
            Duration::from_secs(3) <= lived && lived <= most,
            "{vm}: {lived:?}, {most:?}"
        );
        let log = in_guest(vm, "dmesg");
        let complaints = ["detected stall", "soft lockup", "Watchdog"];
        assert!(
            !complaints.iter().any(|word| log.contains(word)),
            "{vm}: {log}"
        );
    }
}

fn seconds() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    now.as_secs() as i64
}

fn put_forward(by: i64) {
    let time = format!("@{}", seconds() + by);
    let set = Command::new("date")
        .args(["-s", &time])
        .output()
        .expect("date");
    assert!(set.status.success(), "{set:?}");
}

/// Give or take what it takes to ask.
fn must_have_the_hosts_time(told: &str, vm: &str) {
    let (told, now): (i64, _) = (told.trim().parse().expect("seconds"), seconds());
    assert!((now - 20..=now + 1).contains(&told), "{vm}: {told}, {now}");
}
