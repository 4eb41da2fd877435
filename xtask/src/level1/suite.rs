//! Tests of the workspace as a job for the emulated machine.

use super::{Command, Job, Prepared, packages, prepared};
use crate::run::output;
use crate::workspace::{self, cargo};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A test target: `cargo test --package … --test …`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    pub(crate) package: &'a str,
    pub(crate) test: &'a str,
    /// Those of its tests whose names have one of these in them; all, if there is none.
    pub(crate) tests: &'a [&'a str],
    /// Other arguments of the test program.
    pub(crate) arguments: &'a [&'a str],
}

/// The tests of which all or much depends on what KVM does.
pub(crate) const TARGETS: [Target<'_>; 8] = [
    Target {
        package: "hyperfork-vmm",
        test: "fork_of_nano",
        tests: &[],
        arguments: &[],
    },
    Target {
        package: "hyperfork-vmm",
        test: "guest_fork_of_nano",
        tests: &[],
        arguments: &[],
    },
    Target {
        package: "hyperfork-cli",
        test: "nano",
        tests: &[],
        arguments: &[],
    },
    Target {
        package: "hyperfork-cli",
        test: "linux",
        tests: &[],
        arguments: &[],
    },
    // The others of these two are about what the host refuses.
    Target {
        package: "hyperfork-cli",
        test: "network",
        tests: &["clones_have_addresses", "clones_of_mode_same"],
        arguments: &[],
    },
    Target {
        package: "hyperfork-cli",
        test: "disks",
        tests: &["private_to_each_clone"],
        arguments: &[],
    },
    Target {
        package: "hyperfork-cli",
        test: "unmodified_kernel",
        tests: &[],
        arguments: &["--ignored"],
    },
    Target {
        package: "hyperfork-cli",
        test: "host_clock",
        tests: &[],
        arguments: &["--ignored"],
    },
];

/// Guest images the tests use; they must have been built.
const IMAGES: [&str; 1] = ["base"];

/// Programs the tests call that busybox has not, or only much simpler.
const PROGRAMS: [&str; 5] = ["script", "stty", "mke2fs", "e2fsck", "debugfs"];

/// What these programs read.
const SETTINGS: &str = "/etc/mke2fs.conf";

/// What the tests read, in the workspace.
const DATA: &str = "crates/cli/tests/data";

/// Builds the targets and makes a job of them; a filter as for `cargo test`.
///
/// # Errors
/// When something does not compile, or an image is missing.
pub(crate) fn job(targets: &[Target<'_>], filter: Option<&str>, limit: Duration) -> Result<Job> {
    let prepared = Prepared::ensure()?;
    let mut job = Job {
        files: vec![
            prepared.kernel(),
            prepared.guest_initramfs(),
            SETTINGS.into(),
            workspace::root().join(DATA),
        ],
        env: vec![
            ("HYPERFORK_TEST_KERNEL".into(), prepared.kernel().into()),
            (
                "HYPERFORK_TEST_INITRD".into(),
                prepared.guest_initramfs().into(),
            ),
            ("HYPERFORK_TEST_MAY_SET_CLOCK".into(), "1".into()),
        ],
        commands: Vec::new(),
        limit,
    };
    // Where the images are, for those who keep them elsewhere.
    if let Some(cache) = std::env::var_os("XDG_CACHE_HOME") {
        job.env.push(("XDG_CACHE_HOME".into(), cache));
    }
    for program in PROGRAMS {
        let found = packages::find(program);
        job.files
            .push(found.with_context(|| format!("there is no program {program}"))?);
    }
    for image in IMAGES {
        job.files.extend(image_files(image)?);
    }
    for target in targets {
        let built = build(target)?;
        let program = built
            .iter()
            .find(|artifact| artifact.target.name == target.test && artifact.is("test"))
            .and_then(|artifact| Some((artifact.executable.clone()?, &artifact.manifest_path)))
            .with_context(|| format!("cargo has built no test {}", target.test))?;
        let mut argv = vec![program.0.clone().into()];
        // Emulated processors are slow enough for one at a time.
        argv.push("--test-threads=1".into());
        argv.extend(target.arguments.iter().map(Into::into));
        match filter {
            Some(filter) => argv.push(filter.into()),
            None => argv.extend(target.tests.iter().map(Into::into)),
        }
        job.commands.push(Command {
            argv,
            // As cargo does.
            directory: program.1.parent().unwrap_or(Path::new("/")).to_owned(),
        });
        job.files.push(program.0);
        let programs = built.into_iter().filter(|artifact| artifact.is("bin"));
        job.files
            .extend(programs.filter_map(|artifact| artifact.executable));
    }
    Ok(job)
}

/// A line of `cargo --message-format=json` about something built.
#[derive(Deserialize)]
struct Artifact {
    target: ArtifactTarget,
    manifest_path: PathBuf,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct ArtifactTarget {
    name: String,
    kind: Vec<String>,
}

impl Artifact {
    fn is(&self, kind: &str) -> bool {
        self.target.kind.iter().any(|own| own == kind)
    }
}

fn build(target: &Target<'_>) -> Result<Vec<Artifact>> {
    let lines = output(&mut cargo(&[
        "test",
        "--locked",
        "--no-run",
        "--message-format=json-render-diagnostics",
        "--package",
        target.package,
        "--test",
        target.test,
    ]))?;
    // Other lines are about other things.
    Ok(lines
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

/// What an image is made of, in the user's cache.
fn image_files(image: &str) -> Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Image {
        kernel: Part,
        rootfs: Part,
    }
    #[derive(Deserialize)]
    struct Part {
        kind: String,
        key: String,
    }

    let cache = prepared::cache_directory()?;
    let path = cache.join("images").join(image).with_extension("json");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("run `hyperfork image build {image}` first"))?;
    let Image { kernel, rootfs } = serde_json::from_str(&text)
        .with_context(|| format!("cannot understand {}", path.display()))?;
    let parts = [kernel, rootfs].map(|part| cache.join(part.kind).join(part.key));
    Ok([vec![path], parts.into()].concat())
}
