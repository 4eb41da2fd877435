//! Tests of forks that the guest asks for (crates/nano, `mode=fork`).
#![allow(clippy::unwrap_used)] // A test fails by panicking.

#[allow(dead_code)]
mod support;

use hyperfork_api::signal::{Message, Refusal};
use hyperfork_nano::{BAD, report};
use support::Vm;

/// A guest that waits for its first fork.
fn waiting(cpus: u8, clones: u32) -> Vm {
    let vm = Vm::boot(cpus, 64, &format!("mode=fork fork={clones}"));
    assert!(
        matches!(vm.message(), Message::Fork { clones: asked, .. } if asked == clones),
        "{}",
        vm.console()
    );
    vm
}

#[test]
fn the_guest_goes_on_in_parent_and_clones_knowing_which_one_it_is() {
    for cpus in [1, 2] {
        let mut parent = waiting(cpus, 3);
        parent.machine().guest_fork().begin();
        let mut clones = parent.fork(3);
        // No clone continues before it is told its index.
        parent.machine().guest_fork().complete();
        assert_eq!(parent.done(), report(0), "{}", parent.console());
        for (clone, index) in clones.iter_mut().zip(1..) {
            assert!(clone.has_said_nothing(), "{}", clone.console());
            clone.machine().guest_fork().complete_in_clone();
            assert_eq!(clone.done(), report(index), "{}", clone.console());
        }
    }
}

#[test]
fn a_clone_of_a_fork_from_outside_does_not_take_itself_for_one_of_the_guests_fork() {
    let mut parent = waiting(1, 2);
    let other = parent.fork(1).remove(0);
    assert_eq!(other.done(), BAD);
    assert!(
        other.console().contains("Interrupted"),
        "{}",
        other.console()
    );
    // The request is still its parent's.
    parent.machine().guest_fork().begin();
    let mut clones = parent.fork(2);
    clones[1].machine().guest_fork().complete_in_clone();
    assert_eq!(clones[1].done(), report(2), "{}", clones[1].console());
    parent.machine().guest_fork().complete();
    assert_eq!(parent.done(), report(0), "{}", parent.console());
}

#[test]
fn a_refusal_ends_the_wait() {
    let mut parent = waiting(1, 2);
    parent.machine().guest_fork().refuse(Refusal::Spent);
    assert_eq!(parent.done(), BAD);
    assert!(parent.console().contains("Spent"), "{}", parent.console());
}
