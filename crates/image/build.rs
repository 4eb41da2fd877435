//! Makes the crate self-contained: compiles the guest agent as a static program
//! and collects the kernel patches, so that both are embedded.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = manifest
        .join("../..")
        .canonicalize()
        .expect("the workspace is there");
    embed_agent(&root, &out);
    embed_patches(&root, &out);
}

/// Compiles `hyperfork-agent`, always optimised and stripped: it is data here,
/// whatever profile this crate is built in.
fn embed_agent(root: &Path, out: &Path) {
    // Relative to this crate: a target directory may serve several checkouts.
    for input in [
        "crates/agent",
        "crates/api",
        "crates/netlink",
        "Cargo.toml",
        "Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed=../../{input}");
    }
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    // Its own target directory: the one of the running cargo is locked. Beside
    // OUT_DIR's profile, so that all profiles and check runs share one build.
    let target = out.ancestors().nth(4).unwrap_or(out).join("guest-agent");
    // Static and not position-independent: the program neither looks for
    // libraries nor relocates itself when it starts. Paths are made the same
    // everywhere, so that another checkout finds the images in the cache.
    let flags = [
        "-Ctarget-feature=+crt-static".to_owned(),
        "-Crelocation-model=static".to_owned(),
        format!("--remap-path-prefix={}=/hyperfork", root.display()),
    ];
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        // Variables that cargo and clippy set for this script's own crate are
        // not for the agent; those that say where cargo keeps its files and how
        // it reaches a registry are.
        let about_us = (text.starts_with("CARGO") && !is_cargo_wide(&text))
            || text.starts_with("RUSTC")
            || [
                "RUSTFLAGS",
                "MAKEFLAGS",
                "MFLAGS",
                "TARGET",
                "HOST",
                "PROFILE",
                "OPT_LEVEL",
            ]
            .contains(&text.as_ref());
        if about_us {
            cargo.env_remove(&name);
        }
    }
    let status = cargo
        .current_dir(root)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "hyperfork-agent",
        ])
        .args(["--target", TARGET])
        .args(["--config", "profile.release.strip='symbols'"])
        .args(["--config", "profile.release.lto=true"])
        .args(["--config", "profile.release.codegen-units=1"])
        .arg("--target-dir")
        .arg(&target)
        .status()
        .expect("cargo can be started");
    assert!(
        status.success(),
        "the guest agent does not compile (see above)"
    );
    let program = target.join(TARGET).join("release/hyperfork-agent");
    fs::copy(&program, out.join("agent")).expect("the agent can be copied to OUT_DIR");
}

/// Variables that describe the whole cargo installation.
fn is_cargo_wide(name: &str) -> bool {
    ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Writes a Rust array of `(name, text)` of all patches in order of their names.
fn embed_patches(root: &Path, out: &Path) {
    const PATCHES: &str = "guest/kernel/patches";
    println!("cargo::rerun-if-changed=../../{PATCHES}");
    let directory = root.join(PATCHES);
    let mut names: Vec<String> = fs::read_dir(&directory)
        .expect("guest/kernel/patches is there")
        .map(|entry| entry.expect("it can be read").file_name())
        .map(|name| name.into_string().expect("patch names are UTF-8"))
        .filter(|name| name.ends_with(".patch"))
        .collect();
    names.sort();
    let mut array = String::from("[\n");
    for name in names {
        let path = directory.join(&name);
        let text = fs::read_to_string(&path).expect("patches are readable text");
        array += &format!("({name:?}, {text:?}),\n");
    }
    array += "]";
    fs::write(out.join("patches.rs"), array).expect("OUT_DIR can be written");
}
