//! Processes are killed and stopped at random while a VM is forked, and the run directory is
//! full now and then. No parent may be lost that was not killed, nothing may hang, and nothing
//! may be left.
//!
//! `HYPERFORK_FAULT_ROUNDS` says how many forks, `HYPERFORK_FAULT_IMAGE` of which guest,
//! `HYPERFORK_FAULT_SEED` repeats the choices of a run. The result is one line of JSON.

mod support;
#[path = "support/trouble.rs"]
mod trouble;

use serde_json::json;
use std::env;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::{NANO, User, eventually};
use trouble::{
    SmallDisk, descriptors_of, finish_within, lives, pid_of, pool_of, remove_all_but, shells_of,
    signal, soon,
};

/// What a fork must be answered within: its clones have [`READY`] and their end takes a few
/// seconds, on a host that is busy with other things.
const ANSWERED: Duration = Duration::from_secs(120);

/// As `fork --ready-timeout` has it.
const READY: &str = "10s";

/// Descriptors that come and go: a connection to the pool, a request, layers of memory.
const SLACK: usize = 12;

fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |value| value.parse().expect("a number"))
}

/// Choices (xorshift64).
struct Choices(u64);

impl Choices {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let at = self.next(all.len().max(1));
        all.get(at)
    }
}

/// What was done, and what became of it.
#[derive(Debug, Default, serde::Serialize)]
struct Tally {
    forks: u32,
    failed: u32,
    killed: u32,
    stopped: u32,
    full: u32,
    longest_ms: u64,
}

struct Family {
    user: User,
    disk: SmallDisk,
    parent: u32,
    /// The parent's own, which is its relative.
    grandparent: u32,
    descriptors: usize,
    usual: Duration,
}

impl Family {
    fn new(image: &str) -> Self {
        let user = User::new();
        // A guest's output is a few MiB at most.
        let disk = SmallDisk::of(&user);
        let mut args = vec!["run", "-d", "--name", "g"];
        match image {
            "nano" => args.extend(NANO),
            image => args.extend(["--image", image, "--memory", "256MiB"]),
        }
        user.ok(&args);
        user.ok(&["fork", "g", "--name-prefix", "p"]);
        let (grandparent, parent) = (pid_of(&user, "g"), pid_of(&user, "p-1"));
        for _ in 0..2 {
            user.ok(&["fork", "p-1", "-n", "2"]);
            user.ok(&["rm", "-f", "p-1-1", "p-1-2"]);
        }
        let begun = Instant::now();
        user.ok(&["fork", "p-1", "-n", "2"]);
        let usual = begun.elapsed();
        user.ok(&["rm", "-f", "p-1-1", "p-1-2"]);
        let descriptors = descriptors_of(parent);
        Self {
            user,
            disk,
            parent,
            grandparent,
            descriptors,
            usual,
        }
    }

    /// The processes that may be hit: clones, shells, the pool, and the parent's own parent.
    fn victims(&self) -> Vec<u32> {
        let mut all = shells_of(&self.user);
        all.extend(self.user.processes());
        all.extend(pool_of(&self.user));
        all.retain(|&pid| pid != self.parent && lives(pid));
        all
    }

    fn round(&self, choices: &mut Choices, tally: &mut Tally) {
        let count = (1 + choices.next(4)).to_string();
        let is_full = choices.next(5) == 0;
        if is_full {
            self.disk.fill();
            tally.full += 1;
        }
        let begun = Instant::now();
        let args = ["fork", "p-1", "-n", &count, "--ready-timeout", READY];
        let fork = self.user.start(&args);
        for _ in 0..1 + choices.next(3) {
            let step = self.usual.as_micros() as usize / 2;
            std::thread::sleep(Duration::from_micros(choices.next(step) as u64));
            let victims = self.victims();
            let Some(&victim) = choices.of(&victims) else {
                continue;
            };
            // The grandparent is to be there for the next round.
            if victim != self.grandparent && choices.next(2) == 0 {
                signal(victim, "KILL");
                tally.killed += 1;
            } else {
                signal(victim, "STOP");
                tally.stopped += 1;
            }
        }
        let ended = finish_within(fork, ANSWERED);
        let took = begun.elapsed().as_millis() as u64;
        tally.longest_ms = tally.longest_ms.max(took);
        tally.forks += 1;
        tally.failed += u32::from(ended.status != 0);
        assert!([0, 1].contains(&ended.status), "{ended:?}");
        if is_full {
            self.disk.make_room();
        }
        self.must_be_well();
    }

    fn must_be_well(&self) {
        let user = &self.user;
        for stopped in pool_of(user).into_iter().chain([self.grandparent]) {
            signal(stopped, "CONT");
        }
        assert!(lives(self.parent), "the parent is lost");
        eventually("an answer of the parent", || {
            let told = soon(user, &["inspect", "p-1"]);
            told.stdout.contains("\"answers\": true")
        });
        remove_all_but(user, &["g", "p-1"]);
        eventually("the end of the clones' processes", || {
            let mut left = user.processes();
            left.retain(|pid| ![self.parent, self.grandparent].contains(pid));
            left.is_empty()
        });
        eventually("the parent's descriptors", || {
            descriptors_of(self.parent) <= self.descriptors + SLACK
        });
    }
}

#[test]
fn kills_stops_and_a_full_directory_at_random_cost_no_parent_and_leave_nothing() {
    let rounds = number("HYPERFORK_FAULT_ROUNDS", 30);
    let image = env::var("HYPERFORK_FAULT_IMAGE").unwrap_or_else(|_| "nano".to_owned());
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock");
    let seed = number("HYPERFORK_FAULT_SEED", now.as_nanos() as u64) | 1;
    println!("HYPERFORK_FAULT_SEED={seed}");
    let family = Family::new(&image);
    let (mut choices, mut tally) = (Choices(seed), Tally::default());
    for round in 0..rounds {
        eprintln!("round {round}: {tally:?}");
        family.round(&mut choices, &mut tally);
    }
    // Something must have been hit, and something must have survived it.
    assert!(tally.killed > 0 && tally.stopped > 0, "{tally:?}");
    assert!(tally.forks > tally.failed, "{tally:?}");
    // The seed makes a run's choices, not its moments, come again.
    let told = json!({ "image": image, "rounds": rounds, "seed": seed, "tally": tally,
        "parents_lost": 0, "hangs": 0, "leaks": 0 });
    println!("{told}");
    family.user.ok(&["rm", "-f", "g", "p-1"]);
    family.user.must_be_clean();
}
