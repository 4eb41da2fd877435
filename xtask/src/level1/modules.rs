//! Kernel modules and their dependencies.

use anyhow::{Context, Result};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The files of `names` and of all they depend on, in the order in which they can
/// be inserted. Names that the kernel has built in are left out.
pub(super) fn closure(tree: &Path, names: &[&str]) -> Result<Vec<PathBuf>> {
    let modules = Modules::read(tree)?;
    let mut order = Vec::new();
    for name in names {
        modules.add(&canonical(name), &mut order)?;
    }
    Ok(order)
}

struct Modules {
    files: HashMap<String, PathBuf>,
    built_in: String,
}

impl Modules {
    /// Reads an unpacked kernel package.
    fn read(tree: &Path) -> Result<Self> {
        let releases = tree.join("lib/modules");
        let release = fs::read_dir(&releases)
            .with_context(|| format!("cannot list {}", releases.display()))?
            .next()
            .context("the kernel package has no modules")??
            .path();
        let mut files = HashMap::new();
        collect(&release.join("kernel"), &mut files)?;
        Ok(Self {
            files,
            built_in: fs::read_to_string(release.join("modules.builtin"))?,
        })
    }

    fn add(&self, name: &str, order: &mut Vec<PathBuf>) -> Result<()> {
        let Some(file) = self.files.get(name) else {
            let built_in = self
                .built_in
                .lines()
                .any(|line| stem(Path::new(line)) == name);
            return built_in
                .then_some(())
                .with_context(|| format!("the kernel has no module {name}"));
        };
        if order.contains(file) {
            return Ok(());
        }
        for dependency in dependencies(&fs::read(file)?) {
            self.add(&dependency, order)?;
        }
        order.push(file.clone());
        Ok(())
    }
}

fn collect(directory: &Path, files: &mut HashMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "ko") {
            files.insert(stem(&path), path);
        }
    }
    Ok(())
}

/// `…/kvm-amd.ko` is the module `kvm_amd`.
fn stem(path: &Path) -> String {
    canonical(&path.file_stem().unwrap_or_default().to_string_lossy())
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// A module's section `.modinfo`: strings `key=value`,
/// each ended by a NUL.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = &module[start + KEY.len()..];
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(0);
    String::from_utf8_lossy(&value[..end])
        .split(',')
        .filter(|name| !name.is_empty())
        .map(canonical)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_before_what_needs_them_and_only_once() {
        let tree = tempfile::tempdir().unwrap();
        let kernel = tree.path().join("lib/modules/1/kernel/x");
        fs::create_dir_all(&kernel).unwrap();
        for (name, depends) in [
            ("kvm-amd", "kvm,ccp"),
            ("kvm", "irqbypass"),
            ("irqbypass", ""),
        ] {
            let text = format!("ELF\0license=GPL\0depends={depends}\0name={name}\0");
            fs::write(kernel.join(name).with_extension("ko"), text).unwrap();
        }
        fs::write(
            tree.path().join("lib/modules/1/modules.builtin"),
            "kernel/drivers/crypto/ccp/ccp.ko\n",
        )
        .unwrap();
        let order = closure(tree.path(), &["kvm", "kvm-amd"]).unwrap();
        let names: Vec<String> = order.iter().map(|path| stem(path)).collect();
        assert_eq!(names, ["irqbypass", "kvm", "kvm_amd"]);
        assert!(closure(tree.path(), &["e1000"]).is_err());
    }
}
