//! Running, forking and ending VMs, on Linux with the image `base`, which is built when it is
//! missing: forks, the confinement of threads, volumes, and guests that fail.

#![allow(clippy::unwrap_used)] // A test fails by panicking.

mod commands;
mod freed;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use support::{Ended, User, eventually};

fn boot(user: &User, name: &str, more: &[&str]) {
    let mut args = vec!["run", "-d", "--quiet", "--name", name, "--memory", "256MiB"];
    args.extend(more);
    assert_eq!(user.ok(&args), format!("{name}\n"));
}

fn exec(user: &User, vm: &str, script: &str) -> Ended {
    user.run(&["exec", vm, "--", "sh", "-c", script])
}

#[test]
fn a_fork_goes_on_where_its_parent_was_and_each_has_its_own_files() {
    let user = User::new();
    let script = "i=0; while :; do i=$((i+1)); echo $i; echo $i > /tmp/i; sleep 0.2; done";
    boot(&user, "p", &["--", "sh", "-c", script]);
    let counted = |vm: &str| {
        user.ok(&["logs", vm])
            .lines()
            .last()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0)
    };
    eventually("the program's start", || counted("p") >= 2);
    exec(&user, "p", "echo before > /root/file");

    let report = user.json(&["fork", "p", "-n", "2", "--json"]);
    assert_eq!(report["clones"][1]["name"], "p-2");
    let at_fork: u32 = counted("p");
    for vm in ["p", "p-1", "p-2"] {
        // The same program goes on, in the parent and in each clone.
        eventually("more counting", || counted(vm) > at_fork);
        assert_eq!(
            exec(&user, vm, "hostname; cat /root/file").stdout,
            format!("{vm}\nbefore\n")
        );
        exec(&user, vm, &format!("echo {vm} > /root/file"));
    }
    for vm in ["p", "p-1", "p-2"] {
        assert_eq!(exec(&user, vm, "cat /root/file").stdout, format!("{vm}\n"));
    }
    // A clone's log begins with the clone.
    assert!(!user.ok(&["logs", "p-1"]).starts_with("1\n"));

    user.ok(&["fork", "p-1"]);
    assert_eq!(exec(&user, "p-1-1", "cat /root/file").stdout, "p-1\n");
    user.ok(&["rm", "-f", "p", "p-1", "p-2", "p-1-1"]);
    user.must_be_clean();
}

/// A process's threads that handle what its guest writes, and whether the kernel lets them
/// do all that the process may (0) or what a filter says (2).
fn seccomp_modes(user: &User, vm: &str) -> BTreeMap<String, u32> {
    let pid = user.json(&["inspect", vm])["pid"].as_u64().unwrap();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let threads = tasks.map(|task| {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim().to_owned()
        };
        (field("Name:"), field("Seccomp:").parse().unwrap())
    });
    let of_guest = |name: &str| name.starts_with("vcpu") || name == "devices";
    threads.filter(|(name, _)| of_guest(name)).collect()
}

#[test]
fn the_threads_that_serve_a_guest_are_confined_in_a_vm_and_in_clones_of_either_kind() {
    let user = User::new();
    boot(&user, "p", &["--cpus", "2"]);
    user.ok(&["fork", "p"]);
    user.ok(&["fork", "p", "--strategy", "process-fork"]);
    let confined = ["devices", "vcpu0", "vcpu1"].map(|name| (name.to_owned(), 2));
    for vm in ["p", "p-1", "p-2"] {
        assert_eq!(seccomp_modes(&user, vm), confined.clone().into(), "{vm}");
        let written = exec(&user, vm, "echo $HOSTNAME >/file && sync && cat /file");
        assert_eq!(written.status, 0, "{written:?}");
    }
}

/// Prints the processors of PID 1 and of a program, how many a program is told of, and
/// whether PID 1 and vsock's interrupt share one; each a line.
const PLACEMENT: &str = r#"
allowed() { sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/$1/status; }
vsock=$(cd /sys/bus/virtio/drivers/vmw_vsock_virtio_transport && echo virtio*)
irq=$(sed -n "s/^ *\([0-9]*\):.*[[:space:]]$vsock\$/\1/p" /proc/interrupts)
allowed 1; allowed self; nproc
grep -q "$(allowed 1)" /proc/irq/$irq/effective_affinity_list && echo shared || echo apart
"#;

#[test]
fn where_the_kernel_is_emulated_the_agent_keeps_off_vsocks_processor_and_programs_do_not() {
    let user = User::new();
    boot(&user, "p", &["--cpus", "2"]);
    user.ok(&["fork", "p"]);
    for vm in ["p", "p-1"] {
        let told = exec(&user, vm, PLACEMENT).stdout;
        let lines: Vec<&str> = told.lines().collect();
        let emulated = exec(&user, vm, "grep -qw hyperfork.pvm /proc/cmdline").status == 0;
        match (emulated, lines.as_slice()) {
            (true, ["0" | "1", "0-1", "2", "apart"]) | (false, ["0-1", "0-1", "2", _]) => {}
            _ => panic!("{vm}: {told}"),
        }
    }
}

#[test]
fn a_volume_is_shared_and_read_only_where_asked() {
    let user = User::new();
    for (name, content) in [("data", "D"), ("fixed", "F")] {
        fs::create_dir(user.path(name)).unwrap();
        fs::write(user.path(name).join("file"), content).unwrap();
    }
    let volume = |name: &str, to: &str| format!("{}:{to}", user.path(name).display());
    let (data, fixed) = (volume("data", "/data"), volume("fixed", "/fixed:ro"));
    boot(&user, "p", &["-v", &data, "-v", &fixed]);
    assert_eq!(exec(&user, "p", "cat /data/file /fixed/file").stdout, "DF");
    assert_eq!(exec(&user, "p", "echo guest > /data/new").status, 0);
    assert_eq!(support::read(user.path("data").join("new")), "guest\n");
    assert_ne!(exec(&user, "p", "echo guest > /fixed/new").status, 0);
    assert!(!user.path("fixed").join("new").exists());
}

#[test]
fn a_guest_that_panics_is_told_by_its_own_words() {
    let user = User::new();
    let args = [
        "run",
        "-d",
        "-q",
        "--net",
        "none",
        "--append",
        "init=/no/such/init panic=-1",
        "--name",
        "p",
    ];
    let line = user.fails(125, &args);
    assert!(line.contains("panicked"), "{line}");
    user.must_be_clean();
}

#[test]
fn a_guest_that_never_answers_is_given_up() {
    let user = User::new();
    // As PID 1 it waits for input for ever.
    let args = [
        "run",
        "-d",
        "-q",
        "--net",
        "none",
        "--append",
        "init=/bin/cat",
        "--ready-timeout",
        "20s",
    ];
    let line = user.fails(125, &args);
    assert!(line.contains("ready") && line.contains("20 s"), "{line}");
    user.must_be_clean();
}

#[test]
fn a_fork_says_how_long_its_clones_may_take_and_the_parent_outlives_those_that_take_longer() {
    let user = User::new();
    boot(&user, "p", &[]);
    // No guest answers in so short a time.
    let line = user.fails(1, &["fork", "p", "-q", "--ready-timeout", "1ms"]);
    assert!(line.contains("p-1") && line.contains("ready"), "{line}");
    assert_eq!(exec(&user, "p", "true").status, 0);
    // Another time is another's.
    user.ok(&["fork", "p", "-q"]);
}
