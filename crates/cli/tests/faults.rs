//! Each step of a capture, a hand-over and a restore is made to fail, in each way that a step
//! can fail. The parent must be unharmed (where it was not itself what was killed), the fork
//! must be answered, and nothing may be left.

mod support;
#[path = "support/trouble.rs"]
mod trouble;

use hyperfork_sys::fault;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};
use support::{Ended, NANO, User, eventually};
use trouble::{
    descriptors_of, finish_within, lives, pid_of, pool_of, remove_all_but, signal, soon, state_of,
};

/// The process that takes a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Party {
    Parent,
    /// The parent, where there is no pool to do it.
    Alone,
    /// The parent, on the thread that waits for the clones: a panic there is not its end.
    Waiter,
    Clone,
    Pool,
}

use Party::{Alone, Parent, Pool, Waiter};

/// The steps, in their order. Each has a fault point, and there are no others.
const STEPS: &[(&str, Party, &str)] = &[
    // Shells.
    ("shells are asked of the pool", Parent, "shells.take"),
    ("the pool gives them", Pool, "pool.take"),
    ("they are received", Parent, "shells.receive"),
    ("a name is claimed", Parent, "shells.name"),
    ("a process is started", Alone, "shells.spawn"),
    ("it is told what to build", Alone, "shells.order"),
    ("it opens KVM", Party::Clone, "shell.kvm"),
    ("it makes a VM", Party::Clone, "shell.vm"),
    ("its memory is registered", Party::Clone, "shell.memory"),
    ("its vCPUs are made", Party::Clone, "shell.vcpus"),
    ("its devices' lines are made", Party::Clone, "shell.lines"),
    ("its vCPUs' threads start", Party::Clone, "shell.threads"),
    (
        "it has its sockets and logs",
        Party::Clone,
        "shell.surroundings",
    ),
    ("a shell in stock preloads", Party::Clone, "shell.preload"),
    // Capture.
    (
        "what can be copied before the pause is",
        Parent,
        "capture.prepare",
    ),
    ("the parent stands still", Parent, "capture.pause"),
    ("its vCPUs are read", Parent, "capture.vcpus"),
    ("the VM is read", Parent, "capture.vm"),
    ("its devices are read", Parent, "capture.devices"),
    ("its memory is frozen", Parent, "capture.freeze"),
    ("the frozen memory is shared", Parent, "capture.share"),
    ("its state is encoded", Parent, "capture.encode"),
    // Hand-over.
    ("a clone is told what it is", Parent, "handover.order"),
    ("it is given the state", Parent, "handover.state"),
    ("a thread waits for the clones", Parent, "fork.thread"),
    ("it waits", Waiter, "fork.wait"),
    ("the clones are let go", Waiter, "fork.release"),
    ("they tell what they wrote", Waiter, "fork.touched"),
    (
        "what the freeze has left is cleaned up",
        Waiter,
        "fork.clean_up",
    ),
    ("the stock is told to preload", Parent, "fork.preload"),
    ("the pool passes it on", Pool, "pool.preload"),
    // Restore.
    ("the order has arrived", Party::Clone, "clone.order"),
    ("the clone has its place", Party::Clone, "clone.place"),
    ("the state has arrived", Party::Clone, "clone.state"),
    ("it is decoded", Party::Clone, "clone.decode"),
    ("its vCPUs are set", Party::Clone, "restore.vcpus"),
    ("its memory is placed", Party::Clone, "restore.memory"),
    ("its devices are restored", Party::Clone, "restore.devices"),
    ("the VM's state is set", Party::Clone, "restore.vm"),
    (
        "devices and vCPUs are connected",
        Party::Clone,
        "restore.connect",
    ),
    ("it runs", Party::Clone, "clone.run"),
    ("the launcher is watched", Party::Clone, "clone.watch"),
    (
        "the guest is told who it is",
        Party::Clone,
        "clone.identify",
    ),
    ("its sockets are published", Party::Clone, "clone.publish"),
    ("the clone reports", Party::Clone, "clone.report"),
    ("its record is written", Party::Clone, "clone.record"),
    ("it tells what it wrote", Party::Clone, "clone.touched"),
];

const ACTIONS: [&str; 6] = ["error", "ENOSPC", "EMFILE", "kill", "stop", "panic"];

/// What each fork must be answered within, on a busy host: clones have 5 s, and their end
/// takes at most 7.
const ANSWERED: Duration = Duration::from_secs(60);

/// Users whose VMs have faults at the same time. Most of it is waiting.
const SIDE_BY_SIDE: usize = 4;

/// Descriptors that come and go: a connection to the pool, a request, a layer of memory.
const SLACK: usize = 6;

/// The names of all points in the sources.
fn points() -> BTreeSet<String> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = BTreeSet::new();
    for part in ["host", "monitor", "state", "sys", "vmm"] {
        let mut waiting = vec![crates.join(part).join("src")];
        while let Some(path) = waiting.pop() {
            if path.is_dir() {
                let entries = fs::read_dir(path).expect("sources").flatten();
                waiting.extend(entries.map(|entry| entry.path()));
            } else if let Ok(text) = fs::read_to_string(&path) {
                let calls = text.split("fault::point(").skip(1);
                found.extend(calls.filter_map(|call| {
                    let (name, _) = call.trim_start().strip_prefix('"')?.split_once('"')?;
                    Some(name.to_owned())
                }));
            }
        }
    }
    found
}

#[test]
fn each_step_of_a_fork_has_a_fault_point() {
    let steps: BTreeSet<_> = STEPS
        .iter()
        .map(|(_, _, point)| (*point).to_owned())
        .collect();
    assert_eq!(steps.len(), STEPS.len(), "two steps with one point");
    assert_eq!(steps, points());
}

#[test]
fn whatever_fails_in_a_fork_the_parent_is_unharmed_and_nothing_is_left() {
    assert!(fault::are_built(), "build the tests with debug assertions");
    let cases = STEPS.iter().rev().flat_map(|(_, party, point)| {
        ACTIONS.map(|action| Case {
            party: *party,
            point,
            action,
        })
    });
    let wanted = std::env::var("HYPERFORK_FAULT").unwrap_or_default();
    let cases = cases.filter(|case| format!("{case:?}").contains(&wanted));
    let cases: Mutex<Vec<_>> = Mutex::new(cases.collect());
    thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                let mut family = Family::new();
                while let Some(case) = { cases.lock().unwrap().pop() } {
                    family.suffer(&case);
                }
                family.must_leave_nothing();
            });
        }
    });
}

#[derive(Debug)]
struct Case {
    party: Party,
    point: &'static str,
    action: &'static str,
}

impl Case {
    /// Whether the parent itself is what is killed.
    fn kills_parent(&self) -> bool {
        match self.party {
            Parent | Alone => matches!(self.action, "kill" | "panic"),
            Waiter => self.action == "kill",
            Party::Clone | Pool => false,
        }
    }

    fn stops_parent(&self) -> bool {
        matches!(self.party, Parent | Alone | Waiter) && self.action == "stop"
    }
}

/// A user with a parent, which lives through as many cases as it can.
struct Family {
    user: User,
    parent: u32,
    descriptors: usize,
}

impl Family {
    fn new() -> Self {
        let mut family = Self {
            user: User::new(),
            parent: 0,
            descriptors: 0,
        };
        family.begin();
        family
    }

    /// Boots a parent and has it forked a few times, so that it has what a parent has.
    fn begin(&mut self) {
        let mut args = vec!["run", "-d", "--name", "p"];
        args.extend(NANO);
        self.user.ok(&args);
        self.parent = pid_of(&self.user, "p");
        for _ in 0..2 {
            self.user.ok(&["fork", "p", "-n", "2"]);
            self.user.ok(&["rm", "-f", "p-1", "p-2"]);
        }
        self.descriptors = descriptors_of(self.parent);
    }

    fn suffer(&mut self, case: &Case) {
        self.stock(case);
        let run_dir = self.user.run_dir();
        let (file, struck) = (run_dir.join(fault::FILE), run_dir.join(fault::STRUCK));
        let _ = fs::remove_file(&struck);
        // Written whole, at once.
        let new = run_dir.join(".faults.new");
        let whose = match case.party {
            Parent | Alone | Waiter => format!("pid={}", self.parent),
            Pool => format!("pid={}", pool_of(&self.user).expect("a pool")),
            Party::Clone => format!("not={}", self.parent),
        };
        fs::write(&new, format!("{} {} {whose}\n", case.point, case.action))
            .expect("room for a line");
        fs::rename(&new, &file).expect("the run directory");
        if case.party == Alone {
            signal(pool_of(&self.user).expect("a pool"), "KILL");
        }
        // More than there are in stock: some shells are taken, others are built.
        let command = self
            .user
            .start(&["fork", "p", "-n", "3", "--ready-timeout", "5s", "--json"]);
        if case.stops_parent() {
            eventually(&format!("{case:?}: standing still"), || {
                state_of(self.parent) == Some('T')
            });
            assert_eq!(soon(&self.user, &["ps", "-a"]).status, 0, "{case:?}");
            fs::remove_file(&file).expect("the file");
            signal(self.parent, "CONT");
        }
        let ended = finish_within(command, ANSWERED);
        // What comes after the report may take a moment.
        eventually(&format!("{case:?}: getting there"), || struck.exists());
        let _ = fs::remove_file(&file);
        if let Some(pool) = pool_of(&self.user).filter(|&pool| state_of(pool) == Some('T')) {
            signal(pool, "CONT");
        }
        if case.kills_parent() {
            eventually(&format!("{case:?}: the parent's end"), || {
                !lives(self.parent)
            });
            remove_all_but(&self.user, &[]);
            self.begin();
        }
        self.must_be_well(case, &ended);
    }

    /// Waits for a stock, so that both ways to a shell are gone.
    fn stock(&self, case: &Case) {
        eventually(&format!("before {case:?}: a stock"), || {
            !trouble::shells_of(&self.user).is_empty()
        });
    }

    fn must_be_well(&self, case: &Case, ended: &Ended) {
        let what = |what: &str| format!("{case:?}: {what}: {ended:?}");
        let user = &self.user;
        assert!([0, 1].contains(&ended.status), "{}", what("status"));
        assert!(lives(self.parent), "{}", what("the parent is dead"));
        // It answers within a second, unless the host is busy.
        let begun = Instant::now();
        while !soon(user, &["inspect", "p"])
            .stdout
            .contains("\"answers\": true")
        {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "{}",
                what("no answer")
            );
        }
        // Clones are there if the fork succeeded, and only then; unless the thread that was to
        // report them panicked when it had released them.
        let has_panicked = case.party == Waiter && case.action == "panic";
        if !case.kills_parent() && !has_panicked {
            let expected = if ended.status == 0 { 4 } else { 1 };
            assert_eq!(user.names().len(), expected, "{}", what("names"));
        }
        remove_all_but(user, &["p"]);
        eventually(&what("the clones' processes' end"), || {
            user.processes() == [self.parent]
        });
        eventually(&what("the parent's descriptors"), || {
            descriptors_of(self.parent) <= self.descriptors + SLACK
        });
        // It can still be forked. (A shell may have died in stock just now, or stand still.)
        eventually(&what("the next fork"), || {
            soon(user, &["fork", "p", "--ready-timeout", "5s"]).status == 0
        });
        user.ok(&["rm", "-f", "p-1"]);
    }

    fn must_leave_nothing(self) {
        let run_dir = self.user.run_dir();
        self.user.ok(&["rm", "-f", "p"]);
        let _ = fs::remove_file(run_dir.join(fault::STRUCK));
        // Shells, their directories, the pool.
        self.user.must_be_clean();
    }
}
