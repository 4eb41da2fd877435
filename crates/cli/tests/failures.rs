//! A failure is an error of the part that failed, and of no other: no parent, sibling or command
//! hangs or ends because of it.

mod support;
#[path = "support/trouble.rs"]
mod trouble;

use hyperfork_api::VmName;
use hyperfork_api::control::{Fork, Info, Sample};
use hyperfork_host::{Client, RunDir};
use hyperfork_sys::fault;
use std::fs;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};
use support::{NANO, User, eventually};
use trouble::{
    PidsLimit, SOON, SmallDisk, cpu_time_of, descriptors_of, finish_within, limit_descriptors,
    lives, pid_of, pool_of, shells_of, signal, soon, state_of,
};

fn answers(user: &User, vm: &str) -> bool {
    let ended = soon(user, &["inspect", vm]);
    ended.status == 0 && ended.stdout.contains("\"answers\": true")
}

/// As soon as a busy host lets it.
fn must_answer(user: &User, vm: &str) {
    eventually(&format!("an answer of {vm}"), || answers(user, vm));
}

fn stop_process(pid: u32) {
    signal(pid, "STOP");
    eventually("standing still", || state_of(pid) == Some('T'));
}

/// The pool has shells of its own accord, a moment after a VM is ready or was forked.
fn with_stock(user: &User) -> Vec<u32> {
    eventually("a stock", || shells_of(user).len() >= 2);
    shells_of(user)
}

fn names_of(report: &serde_json::Value) -> Vec<&str> {
    let clones = report["clones"].as_array().expect("clones").iter();
    clones.filter_map(|clone| clone["name"].as_str()).collect()
}

#[test]
fn a_full_run_directory_fails_the_fork_and_parent_and_pool_live() {
    let user = User::new();
    let disk = SmallDisk::of(&user);
    user.nano("p");
    user.ok(&["fork", "p", "--name-prefix", "before"]);
    with_stock(&user);
    let (parent, pool) = (pid_of(&user, "p"), pool_of(&user).expect("a pool"));
    disk.fill();
    // As many as there are in stock, and more.
    for count in ["1", "2", "12"] {
        let ended = soon(&user, &["fork", "p", "-n", count]);
        let line = ended.must_have_failed(1);
        // With what had no space.
        let run_dir = user.run_dir().display().to_string();
        assert!(
            line.contains("No space left") && line.contains(&run_dir),
            "{line}"
        );
        must_answer(&user, "p");
        assert_eq!(user.names(), ["before-1", "p"]);
    }
    assert_eq!(pid_of(&user, "p"), parent);
    assert!(lives(pool), "the pool has died");
    disk.make_room();
    user.ok(&["fork", "p", "-n", "3"]);
    assert_eq!(user.names().len(), 5);
    user.ok(&["rm", "-f", "p", "p-1", "p-2", "p-3", "before-1"]);
    user.must_be_clean();
}

#[test]
fn a_clone_that_stands_still_is_listed_as_such_and_in_the_way_of_no_other() {
    let user = User::new();
    user.nano("p");
    user.ok(&["fork", "p", "-n", "3"]);
    let still = pid_of(&user, "p-1");
    stop_process(still);
    let listed = soon(&user, &["ps", "--json"]);
    assert_eq!(listed.status, 0, "{listed:?}");
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 4);
    assert_eq!(listed[1]["name"], "p-1");
    assert_eq!(listed[1]["answers"], false);
    for vm in ["p", "p-2", "p-3"] {
        must_answer(&user, vm);
    }
    assert_eq!(soon(&user, &["stop", "p-2"]).status, 0);
    assert_eq!(soon(&user, &["fork", "p"]).status, 0);
    assert_eq!(soon(&user, &["rm", "-f", "p-1"]).status, 0);
    assert!(!lives(still));
    user.ok(&["rm", "-f", "p", "p-2", "p-3", "p-4"]);
    user.must_be_clean();
}

#[test]
fn a_stock_that_stands_still_delays_no_fork() {
    let user = User::new();
    user.nano("p");
    user.nano("q");
    let stock = with_stock(&user);
    stock.iter().for_each(|&shell| signal(shell, "STOP"));
    // The pool has a moment to notice; one that a fork took before would fail that fork.
    eventually("the end of those that stood still", || {
        !stock.iter().any(|&shell| lives(shell))
    });
    for vm in ["p", "q"] {
        let forked = soon(&user, &["fork", vm, "-n", "3", "--json"]);
        assert_eq!(forked.status, 0, "{forked:?}");
        must_answer(&user, vm);
    }
    assert_eq!(user.names().len(), 8);
}

#[test]
fn a_shell_that_stands_still_ends_with_the_vms_though_its_pool_was_killed() {
    let user = User::new();
    user.nano("p");
    with_stock(&user);
    // Before the pool can notice: it would end the shell.
    let pool = pool_of(&user).expect("a pool");
    stop_process(pool);
    let stock = shells_of(&user);
    stock.iter().for_each(|&shell| stop_process(shell));
    signal(pool, "KILL");
    user.ok(&["fork", "p"]);
    user.ok(&["rm", "-f", "p", "p-1"]);
    user.must_be_clean();
    assert!(!stock.iter().any(|&shell| lives(shell)));
}

#[test]
fn what_a_pool_that_was_killed_has_left_goes_with_the_last_vm() {
    let user = User::new();
    user.nano("p");
    user.ok(&["fork", "p"]);
    let pool = pool_of(&user).expect("a pool");
    signal(pool, "KILL");
    eventually("the end of the pool", || !lives(pool));
    assert!(user.run_dir().join(".pool").exists());
    user.ok(&["rm", "-f", "p"]);
    // The other VM may start a pool again.
    assert!(user.run_dir().join(".pool").exists());
    user.ok(&["stop", "p-1"]);
    user.ok(&["rm", "p-1"]);
    assert!(!user.run_dir().join(".pool").exists());
    user.must_be_clean();
}

#[test]
fn a_pool_that_stands_still_delays_no_fork() {
    let user = User::new();
    user.nano("p");
    user.nano("q");
    with_stock(&user);
    let pool = pool_of(&user).expect("a pool");
    stop_process(pool);
    // The second time, the VM may have connected to it anew.
    for _ in 0..2 {
        for vm in ["p", "q"] {
            let forked = soon(&user, &["fork", vm, "-n", "2", "--json"]);
            assert_eq!(forked.status, 0, "{forked:?}");
            let report: serde_json::Value = serde_json::from_str(&forked.stdout).unwrap();
            assert_eq!(names_of(&report).len(), 2);
            must_answer(&user, vm);
        }
    }
    signal(pool, "CONT");
    user.ok(&["fork", "p"]);
}

#[test]
fn a_shell_that_died_in_stock_is_no_loss() {
    let user = User::new();
    user.nano("p");
    let stock = with_stock(&user);
    let left = |pid: u32| {
        let entries = fs::read_dir(user.run_dir().join(".shells"));
        let entries = entries.into_iter().flatten().flatten();
        let mut locks =
            entries.filter_map(|entry| fs::read_to_string(entry.path().join("lock")).ok());
        locks.any(|lock| lock == pid.to_string())
    };
    stock.iter().for_each(|&shell| signal(shell, "KILL"));
    eventually("the end of what they left", || {
        !stock.iter().any(|&shell| left(shell))
    });
    user.ok(&["fork", "p", "-n", "3"]);
}

#[test]
fn a_vm_without_its_control_socket_is_ended_by_stop_and_by_rm() {
    let user = User::new();
    for (vm, how) in [("p", &["stop", "p"][..]), ("q", &["rm", "-f", "q"])] {
        user.nano(vm);
        let pid = pid_of(&user, vm);
        fs::remove_file(user.run_dir().join(vm).join("control.sock")).unwrap();
        let ended = soon(&user, how);
        assert_eq!(ended.status, 0, "{ended:?}");
        assert!(!lives(pid), "{how:?} reported success over a living VM");
    }
    user.ok(&["rm", "p"]);
    user.must_be_clean();
}

#[test]
fn a_vm_whose_directory_was_removed_ends_and_spares_the_next_of_its_name() {
    let user = User::new();
    user.nano("p");
    let old = pid_of(&user, "p");
    fs::remove_dir_all(user.run_dir().join("p")).unwrap();
    user.nano("p");
    let new = pid_of(&user, "p");
    assert_ne!(old, new);
    eventually("the end of a VM that no command can find", || !lives(old));
    must_answer(&user, "p");
    assert_eq!(user.json(&["inspect", "p"])["state"], "running");
    user.ok(&["fork", "p"]);
    user.ok(&["rm", "-f", "p", "p-1"]);
    user.must_be_clean();
}

#[test]
fn a_vm_whose_lock_was_removed_is_not_removed_while_it_lives() {
    let user = User::new();
    user.nano("p");
    let pid = pid_of(&user, "p");
    fs::remove_file(user.run_dir().join("p/lock")).unwrap();
    let begun = Instant::now();
    loop {
        let removed = user.run(&["rm", "p"]);
        if removed.status == 0 {
            assert!(!lives(pid), "rm reported success over a living VM");
            break;
        }
        assert!(removed.stderr.contains("still running"), "{removed:?}");
        assert!(begun.elapsed() < SOON, "the VM lives on, unseen");
        thread::sleep(Duration::from_millis(50));
    }
    user.nano("q");
    let pid = pid_of(&user, "q");
    fs::remove_file(user.run_dir().join("q/lock")).unwrap();
    assert_eq!(soon(&user, &["rm", "-f", "q"]).status, 0);
    assert!(!lives(pid));
    user.must_be_clean();
}

#[test]
fn a_vm_at_its_limit_of_descriptors_rests_and_serves_again_when_there_is_room() {
    const WATCHED: Duration = Duration::from_secs(3);
    let user = User::new();
    user.nano("p");
    let pid = pid_of(&user, "p");
    limit_descriptors(pid, descriptors_of(pid) + 2);
    let socket = user.run_dir().join("p/control.sock");
    let connections: Vec<_> = (0..20)
        .map(|_| UnixStream::connect(&socket).unwrap())
        .collect();
    let before = cpu_time_of(pid, "control");
    thread::sleep(WATCHED);
    let spent = cpu_time_of(pid, "control") - before;
    assert!(
        spent < WATCHED / 4,
        "its listener has computed for {spent:?}"
    );
    assert!(lives(pid));
    limit_descriptors(pid, 4096);
    must_answer(&user, "p");
    drop(connections);
    user.ok(&["fork", "p"]);
}

#[test]
fn a_fork_without_room_for_descriptors_is_an_error_and_the_next_one_works() {
    let user = User::new();
    user.nano("p");
    user.ok(&["fork", "p", "--name-prefix", "before"]);
    let pid = pid_of(&user, "p");
    limit_descriptors(pid, descriptors_of(pid) + 4);
    let ended = soon(&user, &["fork", "p", "-n", "16"]);
    let error = ended.must_have_failed(1);
    assert!(
        error.contains("open files") || error.contains("descriptors"),
        "{error}"
    );
    limit_descriptors(pid, 4096);
    must_answer(&user, "p");
    assert_eq!(user.names(), ["before-1", "p"]);
    user.ok(&["fork", "p", "-n", "2"]);
}

fn client(user: &User, vm: &str) -> Client {
    let name = VmName::new(vm).expect("a name");
    Client::connect(&RunDir::at(user.run_dir()).vm(&name)).expect("a connection")
}

#[test]
fn a_parent_that_may_start_no_thread_or_process_refuses_the_fork_and_lives() {
    let user = User::new();
    user.nano("p");
    let pid = pid_of(&user, "p");
    let limit = PidsLimit::of(pid);
    // Its thread is there before the limit is.
    let mut client = client(&user, "p");
    client.ask_within(Info {}, SOON).unwrap();
    limit.no_more();
    let forked = client.ask_within(Fork::new(12), SOON);
    let error = forked.expect_err("no fork without processes").to_string();
    assert!(error.contains("temporarily unavailable"), "{error}");
    limit.any();
    must_answer(&user, "p");
    assert_eq!(user.names(), ["p"]);
    user.ok(&["fork", "p", "-n", "2"]);
}

#[test]
fn a_profile_has_pauses_between_its_samples_and_keeps_no_other_waiting() {
    let user = User::new();
    user.nano("p");
    let sample = |count, interval_us| Sample { count, interval_us };
    for (count, interval_us) in [(u32::MAX, 0), (1, 0), (u32::MAX, 1000)] {
        let refused = client(&user, "p").ask_within(sample(count, interval_us), SOON);
        refused.expect_err("it would last for hours");
    }
    // A minute of it, while other things go on.
    let dir = RunDir::at(user.run_dir()).vm(&VmName::new("p").unwrap());
    thread::scope(|scope| {
        let sampling = scope.spawn(|| {
            let mut client = Client::connect(&dir).unwrap();
            client.ask(sample(59_000, 1000))
        });
        let begun = Instant::now();
        must_answer(&user, "p");
        assert_eq!(soon(&user, &["fork", "p"]).status, 0);
        assert_eq!(soon(&user, &["stop", "p"]).status, 0);
        assert!(begun.elapsed() < SOON, "they waited for the profile");
        drop(sampling.join().unwrap());
    });
}

#[test]
fn forks_that_fail_do_not_count() {
    assert!(fault::are_built(), "build the tests with debug assertions");
    let user = User::new();
    let mut args = vec!["run", "-d", "--name", "p", "--max-forks", "3"];
    args.extend(NANO);
    user.ok(&args);
    let faults = user.run_dir().join(fault::FILE);
    for point in ["handover.order", "fork.wait", "clone.decode"] {
        fs::write(&faults, format!("{point} error\n")).unwrap();
        user.fails(1, &["fork", "p", "-n", "2"]);
    }
    fs::remove_file(&faults).unwrap();
    eventually("a fork", || user.run(&["fork", "p", "-n", "3"]).status == 0);
    let spent = user.fails(1, &["fork", "p"]);
    assert!(spent.contains("3 times"), "{spent}");
    assert_eq!(user.json(&["inspect", "p"])["forks"], 3);
}

#[test]
fn a_fork_whose_thread_panics_is_answered_and_over() {
    assert!(fault::are_built(), "build the tests with debug assertions");
    let user = User::new();
    let mut args = vec!["run", "-d", "--name", "p", "--max-forks", "2"];
    args.extend(NANO);
    user.ok(&args);
    let faults = user.run_dir().join(fault::FILE);
    fs::write(&faults, "fork.wait panic\n").unwrap();
    let ended = finish_within(user.start(&["fork", "p", "-n", "2"]), SOON);
    let error = ended.must_have_failed(1);
    assert!(error.contains("given up"), "{error}");
    fs::remove_file(&faults).unwrap();
    must_answer(&user, "p");
    // The clones end by themselves, and their places are free again.
    eventually("the end of the clones", || user.processes().len() == 1);
    user.ok(&["fork", "p", "-n", "2"]);
}

#[test]
fn by_best_effort_the_clones_that_can_be_live_and_the_others_are_named_with_the_reason() {
    assert!(fault::are_built(), "build the tests with debug assertions");
    let user = User::new();
    let mut args = vec!["run", "-d", "--name", "p"];
    args.extend(NANO);
    // Without a pool the parent starts the processes itself.
    let mut command = user.command(&args);
    let started = command.env("HYPERFORK_POOL_MAX", "0").status();
    assert!(started.expect("hyperfork").success());
    let faults = user.run_dir().join(fault::FILE);
    for (point, prefix) in [("shells.spawn", "s"), ("handover.order", "h")] {
        fs::write(&faults, format!("{point} error 2\n")).unwrap();
        let fork = ["fork", "p", "-n", "3", "--json", "--name-prefix", prefix];
        let ended = soon(&user, &[&fork[..], &["--best-effort"]].concat());
        assert_eq!(ended.status, 1, "{ended:?}");
        let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
        let (lives, missing) = (
            [1, 3].map(|k| format!("{prefix}-{k}")),
            format!("{prefix}-2"),
        );
        assert_eq!(names_of(&report), lives, "{report}");
        assert_eq!(report["failed"][0]["name"], missing, "{report}");
        let error = &ended.stderr;
        assert!(
            error.contains(&missing) && error.contains("fault"),
            "{ended:?}"
        );
        let mut expected = [&lives[..], &["p".to_owned()]].concat();
        expected.sort();
        assert_eq!(user.names(), expected);
        user.ok(&["rm", "-f", &lives[0], &lives[1]]);
        // If none can be, each of them is named, too, and nothing is left.
        fs::write(&faults, format!("{point} error\n")).unwrap();
        let ended = soon(&user, &[&fork[..], &["--best-effort"]].concat());
        assert_eq!(ended.status, 1, "{ended:?}");
        let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
        assert!(names_of(&report).is_empty(), "{report}");
        assert_eq!(report["failed"].as_array().unwrap().len(), 3, "{report}");
        assert_eq!(ended.stderr.lines().count(), 3, "{ended:?}");
        assert_eq!(user.names(), ["p"]);
    }
}
