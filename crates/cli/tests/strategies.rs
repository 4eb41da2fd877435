//! What a fork must be, whichever way it is done: the same tests for each strategy, with
//! the real program, for `fork(2)` is of the VM's whole process.
#![allow(clippy::unwrap_used)] // A test fails by panicking.

mod support;

use hyperfork_nano::{Options, report};
use serde_json::Value;
use std::fs;
use std::process::Command;
use support::{User, eventually};

/// Runs each test for each strategy.
macro_rules! for_each_strategy {
    ($($test:ident)*) => {
        mod image {
            $(#[test] fn $test() { super::$test("image"); })*
        }
        mod process_fork {
            $(#[test] fn $test() { super::$test("process-fork"); })*
        }
    };
}

for_each_strategy! {
    memory_is_isolated_both_ways_on_every_page
    registers_and_fpu_contents_survive_on_all_cpus
    a_running_timer_comes_once
    a_pending_interrupt_comes_once
    a_busy_guest_of_two_cpus_can_be_forked_many_times
    clones_of_clones_find_all_that_their_line_wrote
    a_guest_of_eight_cpus_forks
    clones_live_on_and_can_be_forked_when_their_parent_was_killed
    a_parent_lives_on_when_clones_end_in_the_middle_of_their_work
    a_paused_vm_can_be_forked_and_stays_paused
    the_phases_of_a_fork_add_up
    a_fork_that_cannot_be_done_leaves_no_clone_and_its_parent_unharmed
    a_clone_has_nothing_of_its_parents_open
    a_clone_is_told_to_end_like_any_vm_and_leaves_no_process
    linux_goes_on_in_parent_and_clones_and_each_has_its_own_files
}

/// Boots nano as `p`.
fn boot(user: &User, cpus: u8, options: &str) {
    let cpus = cpus.to_string();
    let shape = ["--image", "nano", "--cpus", &cpus, "--memory", "64MiB"];
    let mut args = vec!["run", "-d", "--name", "p", "--append", options];
    args.extend(shape);
    user.ok(&args);
}

/// Forks `vm` and gives the clones' names.
fn fork(user: &User, strategy: &str, vm: &str, count: u32) -> Vec<String> {
    let count = count.to_string();
    let report = user.json(&["fork", vm, "-n", &count, "--strategy", strategy, "--json"]);
    assert_eq!(report["strategy"], strategy);
    let clones = report["clones"].as_array().unwrap().iter();
    clones
        .map(|clone| clone["name"].as_str().unwrap().to_owned())
        .collect()
}

fn inspect(user: &User, vm: &str) -> Value {
    user.json(&["inspect", vm])
}

/// Each clone has checked itself and reported success before the fork is over.
fn must_report(user: &User, clones: &[String]) {
    for (clone, index) in clones.iter().zip(1..) {
        let info = inspect(user, clone);
        assert_eq!(info["index"], index);
        assert_eq!(
            info["exit_status"],
            report(index),
            "{}",
            user.ok(&["logs", clone])
        );
    }
}

/// Forks twice. The parent has run on before its second fork; a clone whose check of itself fails
/// reports that.
fn survives(strategy: &str, cpus: u8, options: &str) {
    let user = User::new();
    boot(&user, cpus, options);
    for _ in 0..2 {
        must_report(&user, &fork(&user, strategy, "p", 2));
    }
    assert_eq!(inspect(&user, "p")["exit_status"], Value::Null);
}

/// What idle and spinning clones answer.
fn answer(options: &str, index: u32) -> u32 {
    Options::parse(options).unwrap().work().answer(index)
}

/// Waits until `vm` has written all of its `touched_mib` since it was forked.
fn writes_on(user: &User, vm: &str, touched_mib: u64) {
    eventually("the guest's writes", || {
        inspect(user, vm)["private_kib"].as_u64().unwrap() >= touched_mib << 10
    });
}

fn memory_is_isolated_both_ways_on_every_page(strategy: &str) {
    let user = User::new();
    boot(&user, 2, "mode=isolate touch_mib=16");
    for _ in 0..2 {
        let clones = fork(&user, strategy, "p", 3);
        must_report(&user, &clones);
        for vm in clones.iter().map(String::as_str).chain(["p"]) {
            writes_on(&user, vm, 16);
        }
    }
    // No clone has found what another one has written.
    must_report(&user, &["p-1", "p-2", "p-3"].map(str::to_owned));
    assert_eq!(inspect(&user, "p")["exit_status"], Value::Null);
}

fn registers_and_fpu_contents_survive_on_all_cpus(strategy: &str) {
    survives(strategy, 2, "mode=regs");
}

fn a_running_timer_comes_once(strategy: &str) {
    survives(strategy, 1, "mode=timer timer_ms=50");
}

fn a_pending_interrupt_comes_once(strategy: &str) {
    survives(strategy, 1, "mode=pending");
}

fn a_busy_guest_of_two_cpus_can_be_forked_many_times(strategy: &str) {
    let options = "mode=spin touch_mib=4";
    let user = User::new();
    boot(&user, 2, options);
    for _ in 0..30 {
        let clone = fork(&user, strategy, "p", 1).remove(0);
        assert_eq!(inspect(&user, &clone)["exit_status"], answer(options, 1));
        user.ok(&["rm", "-f", &clone]);
    }
}

fn clones_of_clones_find_all_that_their_line_wrote(strategy: &str) {
    lineage(|_| strategy);
}

#[test]
fn a_line_of_clones_may_be_of_both_strategies() {
    lineage(|generation| ["image", "process-fork"][generation / 2 % 2]);
}

/// Forks clones of clones; the last of each fork lives on, the one it came from ends.
fn lineage<'a>(strategy: impl Fn(usize) -> &'a str) {
    let options = "touch_mib=8 dirty_pages=300";
    let user = User::new();
    boot(&user, 1, options);
    let mut vm = "p".to_owned();
    for generation in 0..8 {
        let index = 1 + generation as u32 % 2;
        let clone = fork(&user, strategy(generation), &vm, index).pop().unwrap();
        user.ok(&["rm", "-f", &vm]);
        let info = inspect(&user, &clone);
        assert_eq!(info["generation"], generation + 1);
        assert_eq!(info["exit_status"], answer(options, index));
        vm = clone;
    }
}

fn a_guest_of_eight_cpus_forks(strategy: &str) {
    survives(strategy, 8, "mode=regs");
}

fn clones_live_on_and_can_be_forked_when_their_parent_was_killed(strategy: &str) {
    let options = "touch_mib=16";
    let user = User::new();
    boot(&user, 1, options);
    fork(&user, strategy, "p", 2);
    kill(&user, "p", "KILL");
    eventually("the end of p", || inspect(&user, "p")["state"] == "failed");
    for vm in ["p-1", "p-2"] {
        let clone = fork(&user, strategy, vm, 1).remove(0);
        assert_eq!(inspect(&user, &clone)["exit_status"], answer(options, 1));
    }
}

fn a_parent_lives_on_when_clones_end_in_the_middle_of_their_work(strategy: &str) {
    let user = User::new();
    boot(&user, 2, "mode=isolate touch_mib=16");
    fork(&user, strategy, "p", 3);
    user.ok(&["rm", "-f", "p-1", "p-2"]);
    kill(&user, "p-3", "KILL");
    writes_on(&user, "p", 16);
    user.ok(&["rm", "-f", "p-3"]);
    must_report(&user, &fork(&user, strategy, "p", 2));
    assert_eq!(inspect(&user, "p")["exit_status"], Value::Null);
}

fn a_paused_vm_can_be_forked_and_stays_paused(strategy: &str) {
    let options = "touch_mib=4";
    let user = User::new();
    boot(&user, 1, options);
    user.ok(&["pause", "p"]);
    for _ in 0..2 {
        let clone = fork(&user, strategy, "p", 1).remove(0);
        assert_eq!(inspect(&user, &clone)["exit_status"], answer(options, 1));
        assert_eq!(inspect(&user, "p")["state"], "paused");
    }
    user.ok(&["resume", "p"]);
    fork(&user, strategy, "p", 1);
}

fn the_phases_of_a_fork_add_up(strategy: &str) {
    let user = User::new();
    boot(&user, 1, "");
    let report = user.json(&["fork", "p", "-n", "3", "--strategy", strategy, "--json"]);
    for clone in report["clones"].as_array().unwrap() {
        let phase = |name: &str| clone["phases_us"][name].as_u64().unwrap();
        let mut phases = vec![
            "capture",
            "hand_over",
            "memory",
            "state",
            "enter",
            "first_run",
        ];
        match strategy {
            // Built when the child has the memory, not beside its capture.
            "process-fork" => phases.push("shell"),
            _ => assert!(phase("shell") <= phase("capture") + phase("hand_over") + 1),
        }
        let sum: u64 = phases.iter().map(|name| phase(name)).sum();
        let total = clone["total_us"].as_u64().unwrap();
        // Each is rounded down.
        assert!(
            (sum..=sum + phases.len() as u64).contains(&total),
            "{clone}"
        );
        assert_eq!(
            clone["shell_source"] == "process",
            strategy == "process-fork"
        );
    }
}

fn a_fork_that_cannot_be_done_leaves_no_clone_and_its_parent_unharmed(strategy: &str) {
    let user = User::new();
    boot(&user, 1, "");
    // So long that the tenth clone's name would be too long.
    let prefix = "x".repeat(hyperfork_api::VmName::MAX_LEN - "-9".len());
    let mut args = vec!["fork", "p", "-n", "10", "--strategy", strategy];
    args.extend(["--name-prefix", &prefix]);
    let line = user.fails(1, &args);
    assert!(line.contains(&format!("{prefix}-10")), "{line}");
    assert_eq!(user.names(), ["p"]);
    user.must_have_processes(1);
    assert_eq!(inspect(&user, "p")["forks"], 0);
    fork(&user, strategy, "p", 1);
}

fn a_clone_has_nothing_of_its_parents_open(strategy: &str) {
    let user = User::new();
    boot(&user, 2, "mode=spin");
    fork(&user, strategy, "p", 1);
    let clone = fork(&user, strategy, "p-1", 2).pop().unwrap();
    let process = format!("/proc/{}", inspect(&user, &clone)["pid"]);
    let links = fs::read_dir(format!("{process}/fd")).unwrap();
    let links: Vec<_> = links
        .map(|fd| fs::read_link(fd.unwrap().path()).unwrap_or_default())
        .map(|link| link.to_string_lossy().into_owned())
        .collect();
    let count = |what: &str| links.iter().filter(|link| link.contains(what)).count();
    // KVM keeps a VM as long as a process has it open, or has mapped one of its vCPUs.
    assert_eq!((count("kvm-vm"), count("kvm-vcpu")), (1, 2), "{links:?}");
    let maps = support::read(format!("{process}/maps"));
    assert_eq!(maps.matches("kvm-vcpu").count(), 2, "{maps}");
    let run_dir = user.run_dir();
    let others = |link: &&String| {
        let mine = run_dir.join(&clone);
        link.starts_with(run_dir.to_str().unwrap()) && !link.starts_with(mine.to_str().unwrap())
    };
    assert_eq!(links.iter().find(others), None);
}

fn a_clone_is_told_to_end_like_any_vm_and_leaves_no_process(strategy: &str) {
    let user = User::new();
    boot(&user, 1, "");
    fork(&user, strategy, "p", 3);
    let processes = ["p-1", "p-2", "p-3"].map(|vm| format!("/proc/{}", inspect(&user, vm)["pid"]));
    kill(&user, "p-1", "TERM");
    kill(&user, "p-2", "INT");
    user.ok(&["stop", "p-3"]);
    for vm in ["p-1", "p-2", "p-3"] {
        eventually("the end", || inspect(&user, vm)["state"] == "stopped");
    }
    // Not even one that waits to be reaped.
    eventually("the end of all processes", || {
        !processes.iter().any(|process| fs::exists(process).unwrap())
    });
    user.ok(&["rm", "p-1", "p-2", "p-3"]);
    user.ok(&["rm", "-f", "p"]);
    user.must_be_clean();
}

fn linux_goes_on_in_parent_and_clones_and_each_has_its_own_files(strategy: &str) {
    let user = User::new();
    let script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.2; done";
    let mut args = vec!["run", "-d", "--quiet", "--name", "p", "--memory", "256MiB"];
    args.extend(["--", "sh", "-c", script]);
    user.ok(&args);
    let sh = |vm: &str, script: &str| user.ok(&["exec", vm, "--", "sh", "-c", script]);
    let counted = |vm: &str| {
        let log = user.ok(&["logs", vm]);
        log.lines().last().and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    eventually("the program's start", || counted("p") >= 2);
    sh("p", "echo before > /root/file");
    fork(&user, strategy, "p", 2);
    let at_fork: u32 = counted("p");
    for vm in ["p", "p-1", "p-2"] {
        // The same program goes on everywhere.
        eventually("more counting", || counted(vm) > at_fork);
        assert_eq!(
            sh(vm, "hostname; cat /root/file"),
            format!("{vm}\nbefore\n")
        );
        sh(vm, &format!("echo {vm} > /root/file"));
    }
    for vm in ["p", "p-1", "p-2"] {
        assert_eq!(sh(vm, "cat /root/file"), format!("{vm}\n"));
        let clone = fork(&user, strategy, vm, 1).remove(0);
        assert_eq!(
            sh(&clone, "hostname; cat /root/file"),
            format!("{clone}\n{vm}\n")
        );
    }
    user.ok(&["rm", "-f", "p"]);
    assert_eq!(sh("p-1-1", "cat /root/file"), "p-1\n");
}

/// Sends a signal to a VM's process, by its name.
fn kill(user: &User, vm: &str, signal: &str) {
    let pid = inspect(user, vm)["pid"].to_string();
    let sent = Command::new("kill").args(["-s", signal, &pid]).status();
    assert!(sent.unwrap().success());
}
