//! Links the embedded guest, crates/nano, so that `boot::nano` can include it.
//!
//! With the compiler itself and not with cargo: it is two files without
//! dependencies, cargo would wait for the lock of the cargo that runs this, and a
//! program without a standard library needs settings that no profile of the
//! workspace can have.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// For both files: bare metal as far as it can be without a core library of its
/// own, optimised and without debug information whatever the profile.
const FLAGS: [&str; 8] = [
    "--edition=2024",
    "--target=x86_64-unknown-linux-gnu",
    "--emit=link",
    "-Copt-level=2",
    "-Ccodegen-units=1",
    "-Cpanic=abort",
    "-Crelocation-model=static",
    "-Cstrip=symbols",
];

/// For the second: no C library, and addresses as linker.ld says.
const LINK: [&str; 6] = [
    "-Clink-arg=-nostartfiles",
    "-Clink-arg=-nostdlib",
    "-Clink-arg=-static",
    "-Clink-arg=-no-pie",
    "-Clink-arg=-Wl,--build-id=none",
    "-Clink-arg=-Wl,-z,norelro",
];

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let vmm = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let nano = vmm.join("../nano");
    // What lib.rs takes from elsewhere too.
    for input in [&nano, &vmm.join("../api/src/signal.rs")] {
        println!("cargo::rerun-if-changed={}", input.display());
    }
    let library = out.join("libhyperfork_nano.rlib");
    compile(
        &nano.join("src/lib.rs"),
        &library,
        ["--crate-name=hyperfork_nano", "--crate-type=lib"],
    );
    let library = format!("--extern=hyperfork_nano={}", library.display());
    let script = format!("-Clink-arg=-T{}", nano.join("linker.ld").display());
    let program = ["--crate-type=bin", &library, &script]
        .into_iter()
        .chain(LINK);
    compile(&nano.join("src/guest.rs"), &out.join("nano.elf"), program);
}

fn compile<'a>(source: &Path, output: &Path, flags: impl IntoIterator<Item = &'a str>) {
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let status = Command::new(rustc)
        .arg(source)
        .args([OsStr::new("-o"), output.as_os_str()])
        .args(FLAGS)
        .args(flags)
        .status()
        .expect("the compiler can be started");
    assert!(
        status.success(),
        "the nano guest does not compile (see above)"
    );
}
