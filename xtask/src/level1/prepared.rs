//! Files that every emulated machine needs, made once and kept in the user's cache.

use super::initramfs::{self, Contents};
use super::packages::{self, Package};
use crate::workspace;
use anyhow::{Context, Result};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

const KERNEL: &str = "linux-image-cloud-amd64";
const BUSYBOX: &str = "busybox-static";

const INIT: &str = include_str!("init.sh");
const MODULES: [&str; 16] = [
    "kvm-amd",
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "ext4",
    "overlay",
    "tun",
    "fuse",
    "loop",
    // Networks of VMs.
    "veth",
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_masq",
    "nft_nat",
    "nft_reject_ipv4",
];

/// For a guest that boots the same kernel with our devices.
const GUEST_INIT: &str = include_str!("guest-init.sh");
const GUEST_MODULES: [&str; 6] = [
    "virtio_mmio",
    "virtio_blk",
    "virtio_console",
    "virtio_rng",
    "vmw_vsock_virtio_transport",
    "ext4",
];

/// Kernel, initramfs and busybox, on disk.
#[derive(Debug)]
pub(crate) struct Prepared {
    directory: PathBuf,
}

impl Prepared {
    /// Makes it, or finds what was made before.
    ///
    /// # Errors
    /// When packages are missing and cannot be had, or the cache not written.
    pub(crate) fn ensure() -> Result<Self> {
        packages::install_tools()?;
        let kernel = Package::find(KERNEL)?;
        let busybox = Package::find(BUSYBOX)?;
        let mut digest = DefaultHasher::new();
        (&kernel, &busybox, INIT, MODULES, GUEST_INIT, GUEST_MODULES).hash(&mut digest);

        let cache = workspace::cache_directory()?.join("level1");
        let prepared = Self {
            directory: cache.join(format!("{:016x}", digest.finish())),
        };
        if !prepared.directory.exists() {
            println!("preparing the emulated machine: {} …", kernel.name);
            fs::create_dir_all(&cache)
                .with_context(|| format!("cannot make {}", cache.display()))?;
            let scratch = tempfile::tempdir_in(&cache)?;
            let complete = Self {
                directory: scratch.path().join("complete"),
            };
            fs::create_dir(&complete.directory)?;
            complete.fill(&kernel, &busybox, scratch.path())?;
            // Another run may have been quicker, with the same.
            if let Err(error) = fs::rename(&complete.directory, &prepared.directory)
                && !prepared.directory.exists()
            {
                return Err(error.into());
            }
        }
        Ok(prepared)
    }

    fn fill(&self, kernel: &Package, busybox: &Package, scratch: &Path) -> Result<()> {
        let (kernel_tree, busybox_tree) = (scratch.join("kernel"), scratch.join("busybox"));
        kernel.unpack(&kernel_tree)?;
        busybox.unpack(&busybox_tree)?;
        fs::copy(busybox_tree.join("bin/busybox"), self.busybox())?;
        let image = fs::read_dir(kernel_tree.join("boot"))?
            .filter_map(Result::ok)
            .find(|entry| entry.file_name().to_string_lossy().starts_with("vmlinuz"))
            .context("the kernel package has no vmlinuz")?;
        fs::copy(image.path(), self.kernel())?;
        for (init, modules, to) in [
            (INIT, &MODULES[..], self.initramfs()),
            (GUEST_INIT, &GUEST_MODULES[..], self.guest_initramfs()),
        ] {
            let contents = Contents {
                kernel: &kernel_tree,
                modules,
                busybox: &self.busybox(),
                init,
            };
            initramfs::build(&contents, &to)?;
        }
        Ok(())
    }

    /// Where all of them are, and what is there only for one run.
    pub(super) fn cache(&self) -> &Path {
        self.directory.parent().unwrap_or(&self.directory)
    }

    /// Debian's kernel, unmodified: a bzImage.
    pub(crate) fn kernel(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    /// With it, boots an image of ours as a guest: loads what the kernel has as
    /// modules, then runs the image's `init=`.
    pub(crate) fn guest_initramfs(&self) -> PathBuf {
        self.directory.join("guest-initramfs.cpio")
    }

    pub(super) fn initramfs(&self) -> PathBuf {
        self.directory.join("initramfs.cpio")
    }

    pub(super) fn busybox(&self) -> PathBuf {
        self.directory.join("busybox")
    }
}
