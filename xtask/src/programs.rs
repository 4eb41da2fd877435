//! Programs that cargo has built: tests, and the programs that they run.

use crate::run::output;
use crate::workspace::cargo;
use anyhow::Result;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The directory of its package, in which cargo starts tests.
    pub(crate) package: PathBuf,
    /// What the target is called.
    pub(crate) target: String,
    /// `lib`, `bin`, `test`: what it is made of.
    kind: String,
    /// Whether it runs tests.
    pub(crate) is_test: bool,
    pub(crate) executable: PathBuf,
}

impl Program {
    /// Whether it is the tests of this target of a package: of a file under `tests/`.
    pub(crate) fn is_integration_test(&self) -> bool {
        self.is_test && self.kind == "test"
    }

    /// The package's directory's name: `cli` of `hyperfork-cli`.
    pub(crate) fn package_name(&self) -> &str {
        let name = self.package.file_name();
        name.and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// What to call it: `cli nano`, `vmm (lib)`.
    pub(crate) fn title(&self) -> String {
        match self.is_integration_test() {
            true => format!("{} {}", self.package_name(), self.target),
            false => format!("{} ({})", self.package_name(), self.kind),
        }
    }

    /// Runs it as `cargo test` would.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        command
            .current_dir(&self.package)
            .env("CARGO_MANIFEST_DIR", &self.package);
        command
    }
}

/// A line of `cargo --message-format=json` about something built.
#[derive(Deserialize)]
struct Artifact {
    manifest_path: PathBuf,
    target: Target,
    profile: Profile,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds the tests that these arguments of `cargo test` select, and the programs they run.
///
/// # Errors
/// When something does not compile.
pub(crate) fn build(selection: &[&str]) -> Result<Vec<Program>> {
    let mut command = cargo(&["test", "--locked", "--no-run"]);
    command.arg("--message-format=json-render-diagnostics");
    let lines = output(command.args(selection))?;
    // Other lines are about other things.
    let artifacts = lines
        .lines()
        .filter_map(|line| serde_json::from_str::<Artifact>(line).ok());
    let mut programs: Vec<Program> = artifacts.filter_map(Artifact::program).collect();
    // What is quick comes first, and always in the same order.
    programs.sort_by_key(|program| (program.is_integration_test(), program.title()));
    Ok(programs)
}

impl Artifact {
    fn program(self) -> Option<Program> {
        let package = self.manifest_path.parent().unwrap_or(Path::new("/"));
        Some(Program {
            package: package.to_owned(),
            target: self.target.name,
            kind: self.target.kind.into_iter().next()?,
            is_test: self.profile.test,
            executable: self.executable?,
        })
    }
}
