use super::*;
use crate::forbidden;

#[test]
fn the_filters_of_devices_are_those_that_were_agreed() {
    let alone = FileAccess::None.allowed().to_string();
    assert_eq!(alone, include_str!("devices.golden"));
    let with_shares = FileAccess::BelowShares.allowed().to_string();
    assert_eq!(with_shares, include_str!("shares.golden"));
}

#[test]
fn no_process_survives_what_its_device_thread_may_not_do() {
    forbidden::none_survives("devices::confinement::tests::an_attempt", &[]);
    let shares = ["SYS_openat2", "SYS_mkdirat"];
    let test = "devices::confinement::tests::an_attempt_with_shares";
    forbidden::none_survives(test, &shares);
}

#[test]
#[ignore = "a process of the test above"]
fn an_attempt() {
    forbidden::make(FileAccess::None.confinement().unwrap());
}

#[test]
#[ignore = "a process of the test above"]
fn an_attempt_with_shares() {
    forbidden::make(FileAccess::BelowShares.confinement().unwrap());
}
