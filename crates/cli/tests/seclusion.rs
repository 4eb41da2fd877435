//! What the processes of VMs inherit from the process that starts them, and show to others.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use support::{Ended, HYPERFORK, NANO, User, eventually};

const CANARY: &str = "canary-of-the-caller-9b1f";

/// Runs the program with a secret in its environment, and a descriptor open that a program
/// it executes would inherit.
fn run_with_canaries(user: &User, args: &[&str]) {
    let file = user.path(CANARY);
    fs::write(&file, CANARY).unwrap();
    // A shell's redirections are inherited.
    let words = r#"exec 9<"$0"; exec "$@""#;
    let mut command = Command::new("sh");
    command.args(["-c", words]).arg(&file);
    let plain = user.command::<&str>(&[]);
    let variables = plain.get_envs().map(|(name, value)| (name, value.unwrap()));
    command.envs(variables).arg(HYPERFORK).args(args);
    command.env("AWS_SECRET_ACCESS_KEY", CANARY);
    let ended = Ended::of(command.stdin(Stdio::null()).output().unwrap());
    assert_eq!(ended.status, 0, "{ended:?}");
}

/// The numbers of processes by how their command lines begin, of this user's.
fn processes(user: &User) -> Vec<(u32, String)> {
    let all = user.all_processes().into_iter().filter_map(|pid| {
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        Some((pid, words.split('\0').nth(1)?.to_owned()))
    });
    all.collect()
}

#[test]
fn vms_clones_shells_and_the_pool_have_nothing_of_their_starter_and_leave_no_core() {
    let user = User::new();
    let mut args = vec!["run", "-d", "--name", "p"];
    args.extend(NANO);
    run_with_canaries(&user, &args);
    // Starts the pool, from the VM's own process.
    run_with_canaries(&user, &["fork", "p"]);
    eventually("a pool with shells in stock", || {
        let kinds: Vec<_> = processes(&user).into_iter().map(|(_, kind)| kind).collect();
        kinds.contains(&"pool".to_owned()) && kinds.iter().filter(|kind| *kind == "vm").count() > 2
    });
    run_with_canaries(&user, &["fork", "p", "--strategy", "process-fork"]);
    let listed: Value = user.json(&["ps", "--json"]);
    let vms: BTreeSet<u64> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|vm| vm["pid"].as_u64().unwrap())
        .collect();
    assert_eq!(vms.len(), 3, "{listed}");
    let mut looked_at = BTreeSet::new();
    for (pid, kind) in processes(&user) {
        let of = |what: &str| PathBuf::from(format!("/proc/{pid}/{what}"));
        // A shell may end meanwhile, or not have executed the program yet.
        let Ok(environment) = fs::read(of("environ")) else {
            continue;
        };
        let environment = String::from_utf8_lossy(&environment).into_owned();
        let names: Vec<_> = environment
            .split('\0')
            .filter(|one| !one.is_empty())
            .collect();
        assert!(
            names.iter().all(|name| name.starts_with("HYPERFORK_")),
            "{kind} {pid}: {names:?}"
        );
        for fd in fs::read_dir(of("fd")).into_iter().flatten().flatten() {
            let Ok(file) = fs::read_link(fd.path()) else {
                continue;
            };
            assert!(
                !file.to_string_lossy().contains(CANARY),
                "{kind} {pid}: {fd:?}"
            );
        }
        if let Ok(limits) = fs::read_to_string(of("limits")) {
            let core = limits
                .lines()
                .find(|line| line.starts_with("Max core file size"));
            let words: Vec<_> = core.unwrap().split_whitespace().collect();
            assert_eq!(words[4..6], ["0", "0"], "{kind} {pid}");
        }
        looked_at.insert(u64::from(pid));
    }
    assert!(
        looked_at.is_superset(&vms) && looked_at.len() > 4,
        "{looked_at:?}"
    );
}
