//! The guest kernel, from the distribution's source package.

use crate::{BuildError, Digest, Environment, Hasher, Job, Progress, Recipe, Tool};
use std::fs;
use std::path::{Path, PathBuf};

/// Linux with a configuration and patches of ours; `guest/kernel/README.md`
/// gives the same steps to be done by hand.
#[derive(Debug, Clone)]
pub struct LinuxKernel {
    /// The source package, which installs `/usr/src/<package>.tar.xz`.
    pub package: &'static str,
    /// Configuration over `allnoconfig`.
    pub config: &'static str,
    /// Names and texts of patches, in the order they are applied.
    pub patches: &'static [(&'static str, &'static str)],
    /// How many lines make prints for this configuration, about: to report how
    /// far it is.
    pub expected_lines: usize,
}

/// Changes with the steps below.
const RECIPE_VERSION: &str = "1";

impl Recipe for LinuxKernel {
    fn kind(&self) -> &'static str {
        "kernels"
    }

    fn title(&self) -> String {
        "the kernel".to_owned()
    }

    fn digest(&self) -> Digest {
        let mut inputs = Hasher::default();
        inputs
            .field("recipe", RECIPE_VERSION)
            .field("package", self.package)
            .field("config", self.config);
        for (name, text) in self.patches {
            inputs.field(name, text);
        }
        inputs.finish()
    }

    fn source_package(&self) -> Option<&str> {
        Some(self.package)
    }

    fn host_packages(&self) -> Vec<&str> {
        let tools = "make gcc libc6-dev flex bison bc libelf-dev xz-utils patch binutils";
        tools.split(' ').chain([self.package]).collect()
    }

    fn space_needed(&self) -> u64 {
        2500 << 20
    }

    fn build(&self, job: &mut Job<'_>) -> Result<Environment, BuildError> {
        let (source, objects) = (job.work.join("source"), job.work.join("objects"));
        for directory in [&source, &objects] {
            fs::create_dir(directory).map_err(BuildError::file("create", directory))?;
        }
        job.step("unpacking the kernel source", |_| self.unpack(&source))?;
        let work = job.work.clone();
        job.step("configuring the kernel", |_| {
            self.patch(&source, &work)?;
            let config = write(&work, "config", self.config)?;
            make(&source, &objects)
                .arg_path("KCONFIG_ALLCONFIG=", &config)
                .arg("allnoconfig")
                .run(|_| ())?;
            Ok(())
        })?;
        job.step("compiling the kernel", |progress| {
            self.compile(&source, &objects, progress)
        })?;
        let (vmlinux, bzimage) = (job.out.join("vmlinux"), job.out.join("bzImage"));
        Tool::new("strip")
            .arg("-o")
            .arg(&vmlinux)
            .arg(objects.join("vmlinux"))
            .run(|_| ())?;
        fs::copy(objects.join("arch/x86/boot/bzImage"), &bzimage)
            .map_err(BuildError::file("write", &bzimage))?;
        // For people: what was really configured, and what lies where in `vmlinux`, without
        // which a profile of a guest is only numbers.
        for (made, kept) in [(".config", "config"), ("System.map", "System.map")] {
            let kept = job.out.join(kept);
            fs::copy(objects.join(made), &kept).map_err(BuildError::file("write", &kept))?;
        }
        Ok(Environment::default())
    }
}

impl LinuxKernel {
    fn unpack(&self, source: &Path) -> Result<(), BuildError> {
        // Other architectures and drivers we never configure are most of the
        // source; their Kconfig files stay, because ours name them.
        let unneeded = [
            "*/arch/*/boot/dts/*",
            "*/drivers/gpu/*.[ch]",
            "*/drivers/media/*.[ch]",
            "*/drivers/net/ethernet/*.[ch]",
            "*/drivers/net/wireless/*.[ch]",
            "*/drivers/staging/*.[ch]",
            "*/sound/*.[ch]",
            "*/Documentation/*.rst",
            "*/Documentation/*.yaml",
            "*/tools/perf/*",
            "*/tools/testing/*",
        ];
        Tool::new("tar")
            .args(unneeded.map(|pattern| format!("--exclude={pattern}")))
            .args(["--no-same-owner", "--strip-components=1", "-C"])
            .arg(source)
            .arg("-xf")
            .arg(format!("/usr/src/{}.tar.xz", self.package))
            .run(|_| ())?;
        Ok(())
    }

    fn patch(&self, source: &Path, work: &Path) -> Result<(), BuildError> {
        for (name, text) in self.patches {
            let patch = write(work, name, text)?;
            Tool::new("patch")
                .args(["-p1", "--forward", "--batch", "--silent", "-d"])
                .arg(source)
                .arg("-i")
                .arg(&patch)
                .run(|_| ())?;
        }
        Ok(())
    }

    fn compile(
        &self,
        source: &Path,
        objects: &Path,
        progress: &mut dyn Progress,
    ) -> Result<(), BuildError> {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let mut lines = 0;
        make(source, objects)
            .arg(format!("-j{jobs}"))
            .args(["vmlinux", "bzImage"])
            .run(|line| {
                lines += 1;
                let done = lines as f64 / self.expected_lines as f64;
                progress.advanced(Some(done.min(1.0)), line.trim());
            })?;
        Ok(())
    }
}

/// make in the kernel's source, with what it puts into the kernel fixed, so that
/// the same inputs make the same kernel.
fn make(source: &Path, objects: &Path) -> Tool {
    Tool::new("make")
        .arg("-C")
        .arg(source)
        .arg_path("O=", objects)
        .arg("ARCH=x86_64")
        .args([
            "KBUILD_BUILD_USER=hyperfork",
            "KBUILD_BUILD_HOST=hyperfork",
            "KBUILD_BUILD_VERSION=1",
            "KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 1970",
        ])
}

fn write(directory: &Path, name: &str, text: &str) -> Result<PathBuf, BuildError> {
    let path = directory.join(name);
    fs::write(&path, text).map_err(BuildError::file("write", &path))?;
    Ok(path)
}
