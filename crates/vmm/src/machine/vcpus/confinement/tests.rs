use super::*;
use crate::forbidden;

#[test]
fn the_filter_of_a_vcpu_is_the_one_that_was_agreed() {
    assert_eq!(ALLOWED.to_string(), include_str!("vcpu.golden"));
}

#[test]
fn no_process_survives_what_its_vcpu_thread_may_not_do() {
    forbidden::none_survives("machine::vcpus::confinement::tests::an_attempt", &[]);
}

#[test]
#[ignore = "a process of the test above"]
fn an_attempt() {
    forbidden::make(new().unwrap());
}
