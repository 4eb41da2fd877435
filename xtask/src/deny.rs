//! Licences, bans, sources and advisories of all dependencies, by cargo-deny.
//!
//! It is compiled from crates.io by the first run of a machine, which takes two and a half
//! minutes of processor time, and kept in the user's cache. A check of our own, of licences
//! alone, was quicker, but had its own parser of SPDX expressions and knew no advisories.

use crate::run::run;
use crate::workspace::{cache_directory, cargo, root};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const VERSION: &str = "0.20.2";

/// # Errors
/// With everything that `deny.toml` does not allow.
pub(crate) fn check() -> Result<()> {
    let tool = ensure()?;
    let deny = |arguments: &[&str]| {
        let mut deny = Command::new(&tool);
        deny.current_dir(root()).arg("--locked").args(arguments);
        deny
    };
    run(&mut deny(&["check", "licenses", "bans", "sources"]))?;
    // The advisories are a git repository elsewhere, which not every machine reaches.
    let mut fetch = deny(&["fetch", "db"]);
    // A network that swallows packets is given up after a while.
    fetch.envs([
        ("GIT_HTTP_LOW_SPEED_LIMIT", "1000"),
        ("GIT_HTTP_LOW_SPEED_TIME", "30"),
    ]);
    let fetched = run(fetch.stderr(Stdio::null()));
    if fetched.is_err() {
        println!("advisories: NOT CHECKED, their database cannot be fetched from here");
        return Ok(());
    }
    run(&mut deny(&["check", "--disable-fetch", "advisories"]))
}

/// The tool, compiled now if it is not there.
fn ensure() -> Result<PathBuf> {
    let home = cache_directory()?.join(format!("tools/cargo-deny-{VERSION}"));
    let tool = home.join("bin/cargo-deny");
    if !tool.is_file() {
        println!("compiling cargo-deny {VERSION} …");
        install(&home)?;
    }
    Ok(tool)
}

fn install(home: &Path) -> Result<()> {
    let mut install = cargo(&["install", "--quiet", "--locked", "--no-default-features"]);
    run(install
        .args(["cargo-deny", "--version", VERSION, "--root"])
        .arg(home))
}
