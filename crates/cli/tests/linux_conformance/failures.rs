//! Guests that fail, or do not do what a clone must: the error is one line, and nothing is left.

use crate::guest::{Guest, held_by};
use crate::support::{User, eventually};
use serde_json::Value;

#[test]
fn a_guest_that_fails_does_so_alone_and_in_one_line() {
    let user = User::new();
    let parent = Guest::boot(&user, "p", &[]);
    clones_that_cannot_take_their_identity_are_ended_and_the_parent_unharmed(&user, &parent);
    a_running_guest_that_panics_is_told_and_its_clone_lives_on(&user, parent);
    user.must_be_clean();
}

fn clones_that_cannot_take_their_identity_are_ended_and_the_parent_unharmed(
    user: &User,
    parent: &Guest<'_>,
) {
    let hook = "/etc/hyperfork/clone.d/refuse";
    parent.sh(&format!(
        "echo 'exit 3' > {hook}; sed -i '1i #!/bin/sh' {hook}; chmod +x {hook}"
    ));
    let line = user.fails(1, &["fork", "p", "-n", "2", "-q"]);
    assert!(
        line.contains("did not come to life")
            && line.contains(&format!("{hook}: it ended with status 3")),
        "{line}"
    );
    assert_eq!(user.names(), ["p"]);
    parent.must_answer();
    parent.sh(&format!("rm {hook}"));
}

fn a_running_guest_that_panics_is_told_and_its_clone_lives_on(user: &User, parent: Guest<'_>) {
    let clone = parent.fork(1).remove(0);
    let process = parent.pid();
    // The command cannot end in order: its machine is gone.
    let script = "witness crash-agent; sleep 60";
    user.fails(125, &["exec", "p", "--", "sh", "-c", script]);
    eventually("the end of its process", || held_by(process) == (0, 0));
    let info = parent.info();
    assert_eq!(
        (&info["state"], &info["pid"]),
        (&"failed".into(), &Value::Null)
    );
    let error = info["error"].as_str().unwrap();
    assert!(
        error.contains("panicked") && error.contains("kill init") && !error.contains('\n'),
        "{error}"
    );
    let list = user.json(&["ps", "-a", "--json"]);
    let states = list.as_array().unwrap().iter().map(|vm| &vm["state"]);
    assert!(states.eq(["failed", "running"]), "{list}");
    assert!(user.fails(1, &["fork", "p"]).contains("p is not running"));

    clone.must_answer();
    clone.must_be_at_peace();
    parent.remove();
    clone.remove();
}
