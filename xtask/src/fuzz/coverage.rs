//! Measures which lines the kept corpora reach, by LLVM's coverage.

use super::build::{Purpose, instrumented};
use super::libfuzzer::libfuzzer;
use super::record::{Lines, Record};
use super::{corpus, target_dir};
use crate::run::{output, run};
use crate::workspace::root;
use anyhow::{Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's versions of LLVM that read what the pinned compiler writes, newest first.
const VERSIONS: [&str; 4] = ["22", "21", "20", "19"];

/// Code that drives the code in question.
const DRIVERS: [&str; 2] = ["/hostile/", "/fuzzing.rs"];

/// Runs every target once over its corpus, and notes the lines.
///
/// # Errors
/// When LLVM's tools are missing, or a target cannot be built or run.
pub(super) fn measure(record: &mut Record) -> Result<()> {
    let (profdata, cov) = (tool("llvm-profdata")?, tool("llvm-cov")?);
    let targets: Vec<_> = record.rows.iter().map(|row| row.target.clone()).collect();
    let programs = instrumented(Purpose::Coverage, &targets)?;
    let profiles = corpus::fresh(&target_dir().join("profiles"))?;
    for row in &mut record.rows {
        let program = programs.join(&row.target);
        let raw = profiles.join(&row.target).with_extension("profraw");
        let merged = raw.with_extension("profdata");
        let log = target_dir()
            .join("logs")
            .join(format!("{}-coverage.log", row.target));
        let (mut command, _scratch) = libfuzzer(&program, &log)?;
        command.arg("-runs=0").arg(corpus::kept(&row.target));
        run(command.env("LLVM_PROFILE_FILE", &raw))?;
        run(Command::new(&profdata)
            .arg("merge")
            .arg(&raw)
            .arg("-o")
            .arg(&merged))?;
        let mut command = Command::new(&cov);
        command.args(["export", "-summary-only"]).arg(&program);
        command.arg(format!("-instr-profile={}", merged.display()));
        row.lines = Some(lines_of(&output(&mut command)?)?);
    }
    Ok(())
}

/// LLVM's tool: of the toolchain, if it has the component llvm-tools, or of Debian.
fn tool(name: &str) -> Result<PathBuf> {
    let sysroot = output(
        Command::new("rustc")
            .args(["--print", "target-libdir"])
            .current_dir(root()),
    )?;
    let own = Path::new(sysroot.trim()).with_file_name("bin").join(name);
    let debian = VERSIONS.map(|version| PathBuf::from(format!("/usr/bin/{name}-{version}")));
    let mut candidates = [own].into_iter().chain(debian);
    match candidates.find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!(
            "there is no {name} that reads what this compiler writes: `rustup component add llvm-tools`, or as root `apt-get install llvm-{}`",
            VERSIONS[VERSIONS.len() - 1]
        ),
    }
}

/// `llvm-cov export -summary-only`, as far as it is of use here.
#[derive(Deserialize)]
struct Export {
    data: Vec<Data>,
}

#[derive(Deserialize)]
struct Data {
    files: Vec<FileSummary>,
}

#[derive(Deserialize)]
struct FileSummary {
    filename: PathBuf,
    summary: Summary,
}

#[derive(Deserialize)]
struct Summary {
    lines: Count,
}

#[derive(Deserialize)]
struct Count {
    count: u64,
    covered: u64,
}

/// Our own files that were reached at all, but for those that only drive them.
fn lines_of(export: &str) -> Result<Lines> {
    let export: Export = serde_json::from_str(export)?;
    let crates = root().join("crates").canonicalize()?;
    let mut files = BTreeMap::new();
    for FileSummary { filename, summary } in export.data.into_iter().flat_map(|data| data.files) {
        let file = filename.canonicalize().unwrap_or(filename);
        let Ok(name) = file.strip_prefix(&crates) else {
            continue;
        };
        let name = name.display().to_string();
        let drives = DRIVERS.iter().any(|part| name.contains(part));
        if summary.lines.covered > 0 && !drives {
            files.insert(name, (summary.lines.covered, summary.lines.count));
        }
    }
    Ok(Lines { files })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_our_own_files_that_were_reached_count() {
        let file = |name: &str, count: u64, covered: u64| {
            let path = root().join(name).canonicalize().unwrap();
            format!(
                r#"{{"filename":{path:?},"summary":{{"lines":{{"count":{count},"covered":{covered}}}}}}}"#
            )
        };
        let files = [
            file("crates/api/src/frame.rs", 60, 40),
            file("crates/api/src/size.rs", 30, 0),
            file("crates/vmm/src/devices/virtio/hostile/driver.rs", 200, 150),
            file("xtask/src/main.rs", 10, 10),
        ];
        let export = format!(r#"{{"data":[{{"files":[{}]}}]}}"#, files.join(","));
        let lines = lines_of(&export).unwrap();
        assert_eq!(lines.files.len(), 1);
        assert_eq!(lines.files["api/src/frame.rs"], (40, 60));
    }
}
