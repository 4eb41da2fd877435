//! Records the commit that the program is built from: results contain it.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    // Relative to this package, where build scripts run: two checkouts may share their directory
    // for what is built, and each must record its own commit.
    let workspace = Path::new("../..");
    // Whatever changes the monitor changes what is measured, committed or not.
    println!(
        "cargo::rerun-if-changed={}",
        workspace.join("crates").display()
    );
    // Git's record of every commit and checkout; made by the first.
    let log = git(workspace, &["rev-parse", "--git-path", "logs/HEAD"]);
    if let Some(log) = log
        .map(|log| workspace.join(PathBuf::from(log)))
        .filter(|log| log.exists())
    {
        println!("cargo::rerun-if-changed={}", log.display());
    }
    println!("cargo::rustc-env=HYPERFORK_COMMIT={}", commit(workspace));
}

/// The commit, with `+changes` when the files are not all as it has them; `unknown`
/// outside of a repository.
fn commit(workspace: &Path) -> String {
    let Some(commit) = git(workspace, &["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    let changes = git(
        workspace,
        &[
            "status",
            "--porcelain",
            "--untracked-files=no",
            "--",
            "crates",
        ],
    );
    match changes.as_deref() {
        Some("") => commit,
        _ => format!("{commit}+changes"),
    }
}

fn git(workspace: &Path, args: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(workspace)
        .args(args)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
