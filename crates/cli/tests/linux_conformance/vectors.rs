//! Programs keep their vector registers, whatever happens to them and to their VM.

use crate::guest::Guest;
use crate::support::User;
use crate::witness::VECTORS;

#[test]
fn vector_registers_outlast_switches_signals_forks_new_programs_and_forks_of_the_vm() {
    let user = User::new();
    let parent = Guest::boot_watched(&user, "p", &VECTORS);
    for _ in 0..2 {
        let clone = parent.fork(1).remove(0);
        clone.must_go_on();
        clone.must_be_at_peace();
        clone.remove();
    }
    parent.must_go_on();
    parent.must_be_at_peace();
    parent.remove();
    user.must_be_clean();
}

#[test]
fn a_tracer_sees_the_vector_registers_of_a_program_and_sets_them() {
    let user = User::new();
    let guest = Guest::boot(&user, "p", &[]);
    assert_eq!(guest.ask(&["witness", "traced"]), "done\n");
    guest.must_be_at_peace();
}
