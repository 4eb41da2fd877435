//! The output files of an emulated machine.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of the kernel's log shown when the machine fails.
const TAIL: usize = 30;

/// What a machine leaves.
pub(super) struct Files {
    /// Its kernel's messages.
    pub(super) console: PathBuf,
    /// The commands' statuses.
    pub(super) status: PathBuf,
    /// What its threads waited for when time was nearly up.
    pub(super) threads: PathBuf,
    /// QEMU's messages.
    pub(super) errors: PathBuf,
}

impl Files {
    pub(super) fn in_directory(directory: &Path) -> Self {
        let file = |name| directory.join(name);
        Self {
            console: file("console.log"),
            status: file("status"),
            threads: file("threads"),
            errors: file("qemu.log"),
        }
    }

    /// The commands' statuses, as far as the machine reported them.
    pub(super) fn statuses(&self) -> Vec<i32> {
        let told = read(&self.status);
        told.lines()
            .filter_map(|line| line.strip_prefix("exit ")?.parse().ok())
            .collect()
    }

    /// What there is to find out why it failed.
    pub(super) fn told(&self) -> String {
        let mut told = String::new();
        for (who, path, most) in [
            ("QEMU", &self.errors, TAIL),
            ("its threads", &self.threads, usize::MAX),
            ("its kernel", &self.console, TAIL),
        ] {
            let text = read(path);
            let lines: Vec<&str> = text.lines().collect();
            for line in &lines[lines.len().saturating_sub(most)..] {
                told.push_str(&format!("{who}: {line}\n"));
            }
        }
        told
    }
}

/// A file's text; none where there is no such file.
fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
