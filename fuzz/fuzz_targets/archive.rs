//! An archive from a guest, unpacked on the host by `hyperfork cp`.
//!
//! The first byte says what is there already, nothing, a directory, or one with links in it
//! that lead out; and whether the rest is an archive or frames that bring one.
#![no_main]

use hyperfork_fuzz::Fenced;
use libfuzzer_sys::fuzz_target;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::LazyLock;

/// The program's own files: what they need of the program is below.
#[allow(dead_code, unused_imports)] // Of packing and sending.
#[path = "../../crates/cli/src/guest/archive/mod.rs"]
mod archive;

mod ui {
    pub(crate) fn note(_: &str) {}
}

static PLACE: LazyLock<Fenced> = LazyLock::new(Fenced::new);

fuzz_target!(|input: &[u8]| {
    let Some((&choice, mut bytes)) = input.split_first() else {
        return;
    };
    let target = PLACE.inside.join("target");
    if !choice.is_multiple_of(3) {
        fs::create_dir(&target).expect("a directory");
    }
    if choice % 3 == 2 {
        symlink("../..", target.join("up")).expect("a link");
        symlink("../../secret", target.join("file")).expect("a link");
    }
    let _ = match choice {
        0..128 => archive::unpack(&mut bytes, &target),
        128.. => archive::unpack(&mut archive::Incoming::new(bytes), &target),
    };
    PLACE.check_and_empty();
});
