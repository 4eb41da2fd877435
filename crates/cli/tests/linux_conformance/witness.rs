//! The program that watches from inside (`witness/`).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Parts of the witness program.
pub(crate) struct WitnessParts {
    pub(crate) names: &'static str,
    /// Under which names their threads report.
    pub(crate) threads: &'static [&'static str],
}

pub(crate) const MEMORY: WitnessParts = WitnessParts {
    names: "memory",
    threads: &["memory"],
};

pub(crate) const MEMORY_AND_REGISTERS: WitnessParts = WitnessParts {
    names: "memory registers",
    threads: &["memory", "registers-0", "registers-1"],
};

pub(crate) const INTERRUPTS: WitnessParts = WitnessParts {
    names: "interrupts",
    threads: &["interrupts-0", "interrupts-1"],
};

pub(crate) const CLOCK: WitnessParts = WitnessParts {
    names: "clock",
    threads: &["clock-0", "clock-1"],
};

pub(crate) const VECTORS: WitnessParts = WitnessParts {
    names: "vectors",
    threads: &[
        "vectors-0",
        "vectors-1",
        "vectors-2",
        "vectors-3",
        "vectors-4",
        "vectors-5",
        "vectors-6",
        "vectors-7",
    ],
};

pub(crate) const FILES: WitnessParts = WitnessParts {
    names: "files",
    threads: &["files"],
};

/// Names the program where it cannot be compiled.
const COMPILED: &str = "HYPERFORK_TEST_WITNESS";

/// The program, compiled once.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| std::env::var_os(COMPILED).map_or_else(compile, PathBuf::from))
}

/// Compiles it into the directory that cargo has for what tests need, anew by every
/// run: that takes a second.
fn compile() -> PathBuf {
    let sources = crate::support::package().join("tests/linux_conformance/witness");
    let sources = sources.read_dir().unwrap().map(|file| file.unwrap().path());
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("witness");
    let compiled = Command::new("cc")
        .args(["-static", "-O2", "-s", "-Wall", "-Wextra", "-pthread"])
        // It looks at its registers before the C library does (vectors.c).
        .args(["-Wl,-e,witness_start", "-o"])
        .arg(&program)
        .args(sources.filter(|path| path.extension().is_some_and(|suffix| suffix == "c")))
        .status();
    assert!(compiled.expect("cc").success());
    program
}
