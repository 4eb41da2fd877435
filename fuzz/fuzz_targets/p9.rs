//! A guest with a shared directory: any messages, or a hostile driver.
//!
//! The first byte says which, and whether the directory is read-only.
#![no_main]

use hyperfork_fuzz::{Fenced, Untouched};
use hyperfork_vmm::devices::virtio::hostile;
use hyperfork_vmm::devices::virtio::p9::P9;
use hyperfork_vmm::devices::virtio::p9::fuzzing::drive_messages;
use libfuzzer_sys::fuzz_target;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::LazyLock;

/// Messages for the driver's buffers: version, attach, walk to `file`, open, read.
const MESSAGES: &[u8] = include_bytes!("../seeds/messages.9p");

static PLACE: LazyLock<Fenced> = LazyLock::new(Fenced::new);

fuzz_target!(|input: &[u8]| {
    let Some((&choice, script)) = input.split_first() else {
        return;
    };
    let root = PLACE.inside.join("shared");
    if !root.exists() {
        furnish(&root);
    }
    let is_read_only = choice % 2 == 1;
    let untouched = is_read_only.then(|| {
        ["", "dir", "file", "dir/inner"]
            .map(|name| Untouched::new(&root.join(name)).expect("a file"))
    });
    match choice % 8 {
        0..6 => drive_messages(&root, is_read_only, script),
        _ => {
            let device = P9::new("share", &root, is_read_only).expect("a directory");
            hostile::drive_with_buffers(Box::new(device), MESSAGES, script);
        }
    }
    match untouched {
        // It is as it was, and used for the next run.
        Some(untouched) => untouched.iter().for_each(Untouched::check),
        None => PLACE.check_and_empty(),
    }
});

fn furnish(root: &Path) {
    fs::create_dir_all(root.join("dir")).expect("a directory");
    fs::write(root.join("file"), "content").expect("a file");
    fs::write(root.join("dir/inner"), "inner").expect("a file");
    symlink("../..", root.join("up")).expect("a link");
    symlink("../../secret", root.join("out")).expect("a link");
}
