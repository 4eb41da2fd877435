//! Makes root disks: a tree with the agent and a few other files, as an ext4 image.

use crate::distribution::TREE;
use crate::{BuildError, Digest, Environment, Hasher, Job, Recipe, Tool};
use crate::{host, image};
use std::borrow::Cow;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// A file put into a root disk, owned by root.
#[derive(Debug, Clone)]
pub enum GuestFile {
    /// A regular file.
    Regular {
        /// Where, relative to the root.
        path: &'static str,
        /// Permission bits.
        mode: u32,
        /// What is in it.
        content: Cow<'static, [u8]>,
    },
    /// A symbolic link.
    Symlink {
        /// Where, relative to the root.
        path: &'static str,
        /// What it points to.
        target: &'static str,
    },
    /// A directory.
    Directory {
        /// Where, relative to the root.
        path: &'static str,
        /// Permission bits.
        mode: u32,
    },
}

/// A tree and files, as a disk.
pub struct Ext4Root {
    /// Makes the tree.
    pub tree: Box<dyn Recipe>,
    /// What is added, in order.
    pub files: Vec<GuestFile>,
    /// The disk's size, MiB. Free space costs nothing on the host: the file is
    /// sparse.
    pub size_mib: u64,
}

/// In the guest, `NAME=VALUE` lines for [`Environment::env`].
const ENV: &str = "usr/lib/hyperfork/env";

/// The features of the file system, chosen for a guest whose kernel is slow:
/// no journal (a clone's disk is never reused after a crash), no checksums
/// (software CRC over every block read), no 64-bit block numbers, no block group
/// is left to be initialised by the guest (`uninit_bg`).
const FEATURES: &str =
    "none,dir_index,dir_nlink,ext_attr,extent,extra_isize,filetype,flex_bg,large_file,sparse_super";

impl Recipe for Ext4Root {
    fn kind(&self) -> &'static str {
        "roots"
    }

    fn title(&self) -> String {
        "the root disk".to_owned()
    }

    fn digest(&self) -> Digest {
        let mut inputs = Hasher::default();
        inputs
            .field("recipe", "ext4 2")
            .field("tree", self.tree.digest().to_string())
            .field("size_mib", self.size_mib.to_string());
        for file in &self.files {
            match file {
                GuestFile::Regular {
                    path,
                    mode,
                    content,
                } => inputs
                    .field("path", path)
                    .field("mode", mode.to_string())
                    .field("content", content),
                GuestFile::Symlink { path, target } => {
                    inputs.field("path", path).field("target", target)
                }
                GuestFile::Directory { path, mode } => inputs
                    .field("path", path)
                    .field("directory mode", mode.to_string()),
            };
        }
        inputs.finish()
    }

    fn source_package(&self) -> Option<&str> {
        self.tree.source_package()
    }

    fn host_packages(&self) -> Vec<&str> {
        let mut packages = self.tree.host_packages();
        packages.extend(["e2fsprogs", "tar"]);
        if !host::is_root() {
            packages.push("fakeroot");
        }
        packages
    }

    fn space_needed(&self) -> u64 {
        // The unpacked tree and the disk, each about the tree again.
        self.tree.space_needed()
    }

    fn build(&self, job: &mut Job<'_>) -> Result<Environment, BuildError> {
        let archive = job.input(self.tree.as_ref())?.join(TREE);
        let (work, disk) = (job.work.clone(), job.out.join("rootfs.ext4"));
        job.step("writing the root disk", |_| {
            let root = work.join("root");
            fs::create_dir(&root).map_err(BuildError::file("create", &root))?;
            set_mode(&root, 0o755)?;
            // devtmpfs covers /dev; making its nodes would need root.
            owning(&work, "tar")
                .args(["--numeric-owner", "--same-owner", "--exclude=./dev/*", "-C"])
                .arg(&root)
                .arg("-xpf")
                .arg(&archive)
                .run(|_| ())?;
            self.files.iter().try_for_each(|file| add(&root, file))?;
            self.make_disk(&work, &root, &disk)?;
            Ok(Environment {
                env: variables(&root.join(ENV))?,
            })
        })
    }
}

impl Ext4Root {
    fn make_disk(&self, work: &Path, root: &Path, disk: &Path) -> Result<(), BuildError> {
        owning(work, "mke2fs")
            .args(["-q", "-b", "4096", "-I", "256", "-i", "32768", "-m", "0"])
            .args(["-O", FEATURES, "-L", "root"])
            .args(["-E", "lazy_itable_init=0,root_owner=0:0", "-d"])
            .arg(root)
            .arg(disk)
            .arg(format!("{}M", self.size_mib))
            // The host's settings for new file systems must not change the image.
            .env("MKE2FS_CONFIG", "/dev/null")
            .run(|_| ())?;
        Ok(())
    }
}

/// A tool that sees files owned as the tree says: root needs no help; for
/// others fakeroot remembers owners from one tool to the next.
fn owning(work: &Path, tool: &str) -> Tool {
    if host::is_root() {
        return Tool::new(tool);
    }
    let owners = work.join("owners");
    let fakeroot = Tool::new("fakeroot").arg("-s").arg(&owners);
    match owners.exists() {
        true => fakeroot.arg("-i").arg(&owners),
        false => fakeroot,
    }
    .args(["--", tool])
}

fn add(root: &Path, file: &GuestFile) -> Result<(), BuildError> {
    let (GuestFile::Regular { path, .. }
    | GuestFile::Symlink { path, .. }
    | GuestFile::Directory { path, .. }) = file;
    let path = root.join(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(BuildError::file("create", parent))?;
    }
    match file {
        GuestFile::Directory { mode, .. } => {
            fs::create_dir_all(&path).map_err(BuildError::file("create", &path))?;
            return set_mode(&path, *mode);
        }
        // A link of the tree's is replaced, not followed.
        _ if path.symlink_metadata().is_ok() => {
            fs::remove_file(&path).map_err(BuildError::file("replace", &path))?;
        }
        _ => (),
    }
    match file {
        GuestFile::Symlink { target, .. } => {
            symlink(target, &path).map_err(BuildError::file("create", &path))
        }
        GuestFile::Regular { mode, content, .. } => {
            fs::write(&path, content).map_err(BuildError::file("write", &path))?;
            set_mode(&path, *mode)
        }
        GuestFile::Directory { .. } => Ok(()),
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), BuildError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(BuildError::file("write", path))
}

fn variables(path: &Path) -> Result<Vec<(String, String)>, BuildError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(path).map_err(BuildError::file("read", path))?;
    Ok(image::Environment::parse(&text))
}
