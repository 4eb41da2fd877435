//! Tests of the workspace as a job for the emulated machine.

use super::packages;
use super::prepared::Prepared;
use super::{Command, Job};
use crate::programs::Program;
use crate::workspace;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::fs;
use std::path::PathBuf;
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

impl Target<'_> {
    fn is(&self, program: &Program) -> bool {
        program.is_integration_test()
            && self.package == format!("hyperfork-{}", program.package_name())
            && self.test == program.target
    }
}

/// Arguments of `cargo test` that select all of [`TARGETS`] and as little else as possible.
pub(crate) fn selection() -> Vec<&'static str> {
    let targets = TARGETS.iter();
    targets
        .flat_map(|target| ["--package", target.package, "--test", target.test])
        .collect()
}

/// A job that runs these targets, which must be among what was built; a filter as for
/// `cargo test`.
///
/// # Errors
/// When one is not, or an image is missing.
pub(crate) fn job(
    targets: &[Target<'_>],
    built: &[Program],
    filter: Option<&str>,
    limit: Duration,
) -> Result<Job> {
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
            // Four times as many are made on the host, and thousands by `soak nano`.
            ("HYPERFORK_TEST_NANO_FORKS".into(), "25".into()),
        ],
        commands: Vec::new(),
        limit,
    };
    // Where the images are, for users who keep them elsewhere.
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
        let program = built
            .iter()
            .find(|program| target.is(program))
            .with_context(|| format!("cargo has built no test {}", target.test))?;
        let mut argv = vec![program.executable.clone().into()];
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
            directory: program.package.clone(),
        });
        job.files.push(program.executable.clone());
    }
    // What they run.
    let programs = built.iter().filter(|program| !program.is_test);
    job.files
        .extend(programs.map(|program| program.executable.clone()));
    Ok(job)
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

    let cache = workspace::cache_directory()?;
    let path = cache.join("images").join(image).with_extension("json");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("run `hyperfork image build {image}` first"))?;
    let Image { kernel, rootfs } = serde_json::from_str(&text)
        .with_context(|| format!("cannot understand {}", path.display()))?;
    let parts = [kernel, rootfs].map(|part| cache.join(part.kind).join(part.key));
    Ok([vec![path], parts.into()].concat())
}
