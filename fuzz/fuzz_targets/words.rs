//! Parses what users write on the command line: names, sizes, and destinations of a VM.
#![no_main]

use hyperfork_api::egress::{Destination, Place};
use hyperfork_api::{Bytes, VmName};
use libfuzzer_sys::fuzz_target;
use std::fmt::{Debug, Display};
use std::str::FromStr;

fuzz_target!(|input: &[u8]| {
    let Ok(words) = str::from_utf8(input) else {
        return;
    };
    check::<Destination>(words);
    check::<Place>(words);
    check::<VmName>(words);
    check::<Bytes>(words);
    if let Ok(name) = words.parse::<VmName>() {
        assert!(!name.as_str().contains('/') && !name.as_str().starts_with('.'));
        let has_room = name.as_str().len() + "-7".len() <= VmName::MAX_LEN;
        assert_eq!(name.clone_name(7).is_ok(), has_room);
    }
});

/// What is shown is read as the same.
fn check<T: FromStr<Err: Debug> + Display + PartialEq + Debug>(words: &str) {
    if let Ok(value) = words.parse::<T>() {
        let shown = value.to_string();
        assert_eq!(shown.parse::<T>().as_ref().ok(), Some(&value), "{shown}");
    }
}
