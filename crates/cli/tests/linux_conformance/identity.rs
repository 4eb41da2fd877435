//! What tells clones apart.

use crate::guest::Guest;
use crate::support::{User, eventually};
use serde_json::Value;
use std::collections::BTreeSet;

const CLONES: usize = 3;

#[test]
fn every_clone_is_somebody_of_its_own() {
    let user = User::new();
    let parent = Guest::boot(&user, "p", &[]);
    // Its random generators, and those of both its CPUs, are in use.
    parent.sh("witness random; echo before-the-fork > /dev/kmsg");
    let on_console = |guest: &Guest<'_>, what: &str| {
        eventually("it on the console", || guest.console().contains(what));
    };
    on_console(&parent, "before-the-fork");
    let mut all = parent.fork(CLONES);
    all.push(parent);

    let (mut cids, mut random) = (BTreeSet::new(), BTreeSet::new());
    for guest in &all {
        let name = &guest.name;
        let script = format!(
            "echo said-by-{name} > /dev/kmsg; read hostname < /proc/sys/kernel/hostname; \
             read -r identity < /run/hyperfork/identity.json; echo $hostname; echo $identity; \
             witness random; read uuid < /proc/sys/kernel/random/uuid; echo $uuid"
        );
        let output = guest.sh(&script);
        let lines: Vec<_> = output.lines().collect();
        assert_eq!(lines[0], name);
        let identity: Value = serde_json::from_str(lines[1]).unwrap();
        let info = guest.info();
        for key in ["name", "index", "generation", "cid"] {
            assert_eq!(identity[key], info[key], "{key} of {name}");
        }
        assert!(cids.insert(identity["cid"].as_u64().unwrap()), "{name}");
        assert_eq!(lines.len(), 5, "{output}");
        for line in &lines[2..] {
            assert!(random.insert((*line).to_owned()), "{name}: {line}");
        }

        // Its console is its own and begins with it.
        on_console(guest, &format!("said-by-{name}"));
        let console = guest.console();
        assert_eq!(console.matches("said-by-").count(), 1, "{console}");
        assert_eq!(
            console.contains("before-the-fork"),
            name == "p",
            "{console}"
        );
    }
}
