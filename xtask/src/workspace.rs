//! Cargo's metadata of the workspace.

use crate::run::output;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The workspace's root directory, by its plain name: links followed, no `..` in it.
pub(crate) fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        // Cargo says so to what it runs; a program that was moved with its checkout
        // would have the old place compiled in.
        let package = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let root = package.join("..");
        root.canonicalize().unwrap_or(root)
    });
    &ROOT
}

/// Cargo, in the workspace's root.
pub(crate) fn cargo(args: &[&str]) -> Command {
    // The one that runs this; the one that compiled it may be gone.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(args).current_dir(root());
    command
}

/// The user's cache of this project.
///
/// # Errors
/// When neither `XDG_CACHE_HOME` nor `HOME` says where it is.
pub(crate) fn cache_directory() -> Result<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from) {
        // Others do not count (XDG base directory specification).
        Some(cache) if cache.is_absolute() => cache,
        _ => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(cache.join("hyperfork"))
}

/// `cargo metadata`, as far as it is of use here.
#[derive(Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    pub(crate) workspace_members: Vec<String>,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) dependencies: Vec<Dependency>,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    src_path: PathBuf,
}

impl Package {
    /// The files its library and its programs begin with.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &Path> {
        self.targets
            .iter()
            .filter(|target| {
                target
                    .kind
                    .iter()
                    .any(|kind| kind == "lib" || kind == "bin")
            })
            .map(|target| target.src_path.as_path())
    }
}

#[derive(Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `dev`, `build`, or nothing.
    pub(crate) kind: Option<String>,
}

/// # Errors
/// When cargo fails.
pub(crate) fn metadata() -> Result<Metadata> {
    let text = output(&mut cargo(&["metadata", "--format-version=1", "--locked"]))?;
    Ok(serde_json::from_str(&text)?)
}

/// Where cargo puts what it builds, by whatever setting; an absolute path.
///
/// # Errors
/// When cargo fails.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let text = output(&mut cargo(&[
        "metadata",
        "--format-version=1",
        "--locked",
        "--no-deps",
    ]))?;
    let metadata: Metadata = serde_json::from_str(&text)?;
    Ok(metadata.target_directory)
}

/// The program, as a debug build has it.
///
/// # Errors
/// When cargo fails.
pub(crate) fn program() -> Result<PathBuf> {
    Ok(target_directory()?.join("debug/hyperfork"))
}

impl Metadata {
    /// The packages of the workspace itself.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages
            .iter()
            .filter(|package| self.workspace_members.contains(&package.id))
    }
}
