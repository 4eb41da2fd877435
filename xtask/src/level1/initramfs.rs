//! An initial RAM file system: busybox, modules, and a script that is `/init`.

use super::modules;
use crate::run::run;
use anyhow::{Context, Result};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// What goes into one.
pub(super) struct Contents<'a> {
    /// An unpacked kernel package.
    pub(super) kernel: &'a Path,
    /// Modules to be inserted, beside those they depend on.
    pub(super) modules: &'a [&'a str],
    /// A static busybox.
    pub(super) busybox: &'a Path,
    /// The script. `/modules/order` lists the modules to insert.
    pub(super) init: &'a str,
}

/// Writes it to `to`, uncompressed: unpacking costs more than reading.
pub(super) fn build(contents: &Contents<'_>, to: &Path) -> Result<()> {
    let tree = tempfile::tempdir()?;
    let path = |name: &str| tree.path().join(name);
    for directory in ["bin", "dev", "modules", "proc", "root", "sys"] {
        fs::create_dir(path(directory))?;
    }
    fs::copy(contents.busybox, path("bin/busybox"))?;
    fs::write(path("init"), contents.init)?;
    fs::set_permissions(path("init"), Permissions::from_mode(0o755))?;

    let mut order = String::new();
    for file in modules::closure(contents.kernel, contents.modules)? {
        let name = file.file_name().context("a module without a name")?;
        fs::copy(&file, path("modules").join(name))?;
        order.push_str(&name.to_string_lossy());
        order.push('\n');
    }
    fs::write(path("modules/order"), order)?;
    archive(contents.busybox, tree.path(), to)
}

/// Packs a directory in the format the kernel unpacks
/// (Documentation/driver-api/early-userspace/buffer-format.rst).
fn archive(busybox: &Path, tree: &Path, to: &Path) -> Result<()> {
    run(Command::new(busybox)
        .args([
            "sh",
            "-c",
            "\"$0\" find . | \"$0\" cpio -o -H newc -R 0:0 > \"$1\"",
        ])
        .arg(busybox)
        .arg(to)
        .current_dir(tree)
        .stderr(Stdio::null()))?;
    File::open(to).with_context(|| format!("no {} was made", to.display()))?;
    Ok(())
}
