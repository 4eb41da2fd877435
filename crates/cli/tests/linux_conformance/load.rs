//! Programs on all CPUs that never notice that they are forked.

use crate::guest::{Guest, forks_or};
use crate::support::User;
use crate::witness::{INTERRUPTS, MEMORY_AND_REGISTERS, WitnessParts};
use std::path::Path;

/// How often a guest is forked: less where KVM emulates its kernel (PVM), for there
/// every clone takes seconds to go round. `cargo xtask soak load` does it more often.
fn forks() -> usize {
    forks_or(match Path::new("/sys/module/kvm_pvm").exists() {
        true => 8,
        false => 100,
    })
}

/// Forks again and again while `parts` watch; each clone is checked and removed.
fn fork_watched(parts: &WitnessParts) {
    let user = User::new();
    let parent = Guest::boot_watched(&user, "p", parts);
    let forks = forks();
    for _ in 0..forks {
        let clone = parent.fork(1).remove(0);
        assert_eq!(clone.name, "p-1");
        clone.must_go_on();
        clone.must_be_at_peace();
        clone.remove();
    }
    parent.must_go_on();
    parent.must_be_at_peace();
    assert_eq!(parent.info()["forks"], forks);
    parent.remove();
    user.must_be_clean();
}

#[test]
fn programs_on_all_cpus_find_their_memory_and_registers_after_every_of_many_forks() {
    fork_watched(&MEMORY_AND_REGISTERS);
}

#[test]
fn three_cpus_hear_of_memory_that_is_gone() {
    let user = User::new();
    // With two CPUs, an interrupt to all others is one interrupt.
    let guest = Guest::boot_with_cpus(&user, "p", "3", &[]);
    assert_eq!(guest.ask(&["witness", "unmap", "3"]), "done\n");
    guest.must_be_at_peace();
}

#[test]
fn idle_cpus_lose_no_interrupt_of_a_timer_or_of_each_other_in_any_of_many_forks() {
    fork_watched(&INTERRUPTS);
}
