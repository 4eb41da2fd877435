//! No layer imports from above: neither crates, nor the modules of the monitor.

use crate::workspace::{metadata, root};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// Which of our crates each may import. `xtask` may import none and is not listed.
const CRATES: [(&str, &[&str]); 12] = [
    ("hyperfork-api", &[]),
    ("hyperfork-sys", &[]),
    ("hyperfork-state", &["hyperfork-api"]),
    ("hyperfork-nano", &["hyperfork-api"]),
    ("hyperfork-agent", &["hyperfork-api"]),
    ("hyperfork-image", &["hyperfork-api"]),
    ("hyperfork-net", &["hyperfork-api", "hyperfork-sys"]),
    (
        "hyperfork-vmm",
        &["hyperfork-api", "hyperfork-state", "hyperfork-sys"],
    ),
    (
        "hyperfork-host",
        &[
            "hyperfork-api",
            "hyperfork-net",
            "hyperfork-state",
            "hyperfork-sys",
        ],
    ),
    (
        "hyperfork-monitor",
        &[
            "hyperfork-api",
            "hyperfork-host",
            "hyperfork-net",
            "hyperfork-state",
            "hyperfork-sys",
            "hyperfork-vmm",
        ],
    ),
    // Of the nano guest only what it computes, to check its answers; of the machine what a
    // fork comes to without processes.
    (
        "hyperfork-bench",
        &[
            "hyperfork-api",
            "hyperfork-host",
            "hyperfork-nano",
            "hyperfork-state",
            "hyperfork-sys",
            "hyperfork-vmm",
        ],
    ),
    (
        "hyperfork-cli",
        &[
            "hyperfork-api",
            "hyperfork-bench",
            "hyperfork-host",
            "hyperfork-image",
            "hyperfork-monitor",
            "hyperfork-nano",
            "hyperfork-net",
            "hyperfork-sys",
            "hyperfork-vmm",
        ],
    ),
];

/// What the monitor must never see.
const NOT_IN_THE_MONITOR: [&str; 7] = [
    "tokio",
    "hyper",
    "axum",
    "reqwest",
    "object_store",
    "clap",
    "indicatif",
];

/// The monitor's modules, from the bottom up. Each may use those before it.
const MONITOR: [&str; 8] = [
    "blobs", "memory", "kvm", "bus", "devices", "boot", "snapshot", "machine",
];

/// # Errors
/// With every import that breaks the order.
pub(crate) fn check() -> Result<()> {
    let mut broken = crates()?;
    broken.extend(modules(&root().join("crates/vmm/src"))?);
    if !broken.is_empty() {
        bail!("layers are broken:\n  {}", broken.join("\n  "));
    }
    println!("layers: in order");
    Ok(())
}

fn crates() -> Result<Vec<String>> {
    let metadata = metadata()?;
    let mut broken = Vec::new();
    for package in metadata.members().filter(|package| package.name != "xtask") {
        let Some((_, may)) = CRATES.iter().find(|(name, _)| *name == package.name) else {
            broken.push(format!(
                "{} has no place in xtask/src/layers.rs",
                package.name
            ));
            continue;
        };
        // Tests may look wherever they want.
        for dependency in package
            .dependencies
            .iter()
            .filter(|dep| dep.kind.as_deref() != Some("dev"))
        {
            let name = dependency.name.as_str();
            if name.starts_with("hyperfork-") && !may.contains(&name) {
                broken.push(format!("{} imports {name}", package.name));
            }
            if ["hyperfork-vmm", "hyperfork-monitor", "hyperfork-host"].contains(&&*package.name)
                && NOT_IN_THE_MONITOR.contains(&name)
            {
                broken.push(format!("the monitor imports {name}"));
            }
        }
    }
    Ok(broken)
}

fn modules(source: &Path) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for (place, module) in MONITOR.iter().enumerate() {
        for file in files_of(source, module)? {
            let text = fs::read_to_string(&file)?;
            for above in &MONITOR[place + 1..] {
                let import = format!("crate::{above}");
                let used = text
                    .lines()
                    .filter(|line| !line.trim_start().starts_with("//"))
                    .any(|line| {
                        line.match_indices(&import).any(|(at, _)| {
                            !line[at + import.len()..]
                                .starts_with(|c: char| c.is_alphanumeric() || c == '_')
                        })
                    });
                if used {
                    let file = file.strip_prefix(root()).unwrap_or(&file).display();
                    broken.push(format!("{file} ({module}) uses {above}"));
                }
            }
        }
    }
    Ok(broken)
}

/// `module.rs` or everything below `module/`.
fn files_of(source: &Path, module: &str) -> Result<Vec<PathBuf>> {
    let file = source.join(module).with_extension("rs");
    if file.is_file() {
        return Ok(vec![file]);
    }
    let mut files = Vec::new();
    let mut folders = vec![source.join(module)];
    while let Some(folder) = folders.pop() {
        for entry in
            fs::read_dir(&folder).with_context(|| format!("no module at {}", folder.display()))?
        {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    Ok(files)
}
