//! Tells both programs of this package which sources they were built from: `hyperfork` must not
//! have its VMs run a `hyperfork-vm` of others.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::path::{Path, PathBuf};

fn main() -> io::Result<()> {
    // Relative to this package, where build scripts run: two checkouts may share their directory
    // for what is built.
    let (crates, lock) = (Path::new(".."), Path::new("../../Cargo.lock"));
    println!("cargo::rerun-if-changed={}", crates.display());
    println!("cargo::rerun-if-changed={}", lock.display());
    let mut files = BTreeSet::from([lock.to_owned()]);
    for package in fs::read_dir(crates)? {
        collect(&package?.path().join("src"), &mut files)?;
    }
    let mut hasher = DefaultHasher::new();
    for file in files {
        hasher.write(file.as_os_str().as_encoded_bytes());
        hasher.write(&fs::read(&file)?);
    }
    println!("cargo::rustc-env=HYPERFORK_BUILD={:016x}", hasher.finish());
    Ok(())
}

/// All files below a directory.
fn collect(directory: &Path, files: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        match path.is_dir() {
            true => collect(&path, files)?,
            false => drop(files.insert(path)),
        }
    }
    Ok(())
}
