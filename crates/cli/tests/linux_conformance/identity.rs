//! The identities of clones.

use crate::guest::Guest;
use crate::support::{User, eventually};
use serde_json::Value;
use std::collections::BTreeSet;

const CLONES: usize = 3;

#[test]
fn every_clone_has_an_identity_of_its_own() {
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
             witness random; cd /proc/sys/kernel/random; cat uuid boot_id /etc/machine-id; \
             cat /run/hyperfork/token"
        );
        let output = guest.sh(&script);
        let lines: Vec<_> = output.lines().collect();
        assert_eq!(lines[0], name);
        let identity: Value = serde_json::from_str(lines[1]).unwrap();
        let info = guest.info();
        for key in ["name", "index", "generation", "cid"] {
            assert_eq!(identity[key], info[key], "{key} of {name}");
        }
        assert_eq!(identity["generation_again"], info["generation"], "{name}");
        assert_eq!(lines[6], info["machine_id"], "{name}");
        let token = guest.user.ok(&["inspect", "--token", name]);
        assert_eq!(lines[7], token.trim_end(), "{name}");
        // `inspect` shows the token only on request.
        for listing in [
            &["inspect", name][..],
            &["ps", "--json"],
            &["tree", "--json"],
        ] {
            assert!(!guest.user.ok(listing).contains(lines[7]), "{listing:?}");
        }
        assert!(cids.insert(identity["cid"].as_u64().unwrap()), "{name}");
        assert_eq!(lines.len(), 8, "{output}");
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

#[test]
fn hooks_have_run_in_a_clone_before_it_answers() {
    let user = User::new();
    let parent = Guest::boot(&user, "p", &[]);
    // A guest with SSH host keys, and what makes them. (Each program that is started takes
    // long on a PVM host.)
    parent.sh(
        "cd /etc/hyperfork/clone.d
         printf '#!/bin/sh\necho $HYPERFORK_NAME $HYPERFORK_INDEX $HYPERFORK_GENERATION > /root/hook' > note
         printf '#!/bin/sh\nread uuid < /proc/sys/kernel/random/uuid; echo $uuid > /etc/ssh/ssh_host_x_key' > /usr/bin/ssh-keygen
         chmod +x note /usr/bin/ssh-keygen
         echo of-the-parent > /etc/ssh/ssh_host_x_key",
    );
    let clone = parent.fork(1).remove(0);
    assert_eq!(clone.sh("cat /root/hook"), "p-1 1 1\n");
    let key = clone.sh("cat /etc/ssh/ssh_host_x_key");
    assert!(key.len() == 37 && !key.contains("parent"), "{key}");
    clone.remove();

    parent.sh("test ! -e /root/hook; rm /etc/hyperfork/clone.d/note /etc/ssh/ssh_host_x_key");
    let clone = parent.fork(1).remove(0);
    clone.sh("test ! -e /root/hook -a ! -e /etc/ssh/ssh_host_x_key");
}
