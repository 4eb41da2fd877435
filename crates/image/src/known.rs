//! The images this program knows how to make. Their recipes are under `guest/`.

use crate::{BusyboxTree, DebianTree, Ext4Root, GuestFile, ImageRecipe, LinuxKernel, Recipe};
use std::borrow::Cow;

/// The guest agent, a static program; see `build.rs`.
static AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent"));

const KERNEL: LinuxKernel = LinuxKernel {
    package: "linux-source-6.12",
    config: include_str!("../../../guest/kernel/config"),
    patches: &include!(concat!(env!("OUT_DIR"), "/patches.rs")),
    expected_lines: 1520,
};

/// All images, by name.
pub(crate) fn images() -> Vec<ImageRecipe> {
    vec![
        image(
            "base",
            BusyboxTree {
                package: "busybox-static",
            },
            vec![
                text(
                    "etc/passwd",
                    include_str!("../../../guest/images/base/passwd"),
                ),
                text(
                    "etc/group",
                    include_str!("../../../guest/images/base/group"),
                ),
            ],
        ),
        image(
            "python",
            DebianTree {
                codename: "bookworm",
                packages: include_str!("../../../guest/images/python/packages"),
                customize: &[
                    include_str!("../../../guest/images/debian.sh"),
                    PYTHON_MODULES,
                    include_str!("../../../guest/images/python/customize.sh"),
                ],
            },
            vec![text(
                "usr/lib/hyperfork/env",
                include_str!("../../../guest/images/python/env"),
            )],
        ),
    ]
}

/// Writes our own modules, to be compiled with all others. Debian's `sitecustomize.py` is a
/// link that leads out of the tree, so what is there goes first.
const PYTHON_MODULES: &str = concat!(
    "#!/bin/sh\nset -eu\n",
    "cd \"$1\"/usr/lib/python3.11\n",
    "rm -f sitecustomize.py\n",
    "cat > sitecustomize.py <<'END OF MODULE'\n",
    include_str!("../../../guest/images/python/sitecustomize.py"),
    "END OF MODULE\n",
    "cat > _hyperfork_renewal.py <<'END OF MODULE'\n",
    include_str!("../../../guest/images/python/_hyperfork_renewal.py"),
    "END OF MODULE\n",
    "cat > ../python3/dist-packages/hyperfork.py <<'END OF MODULE'\n",
    include_str!("../../../guest/images/python/hyperfork.py"),
    "END OF MODULE\n",
);

fn image(name: &str, tree: impl Recipe + 'static, files: Vec<GuestFile>) -> ImageRecipe {
    ImageRecipe {
        name: name.to_owned(),
        kernel: Box::new(KERNEL),
        rootfs: Box::new(Ext4Root {
            tree: Box::new(tree),
            files: every_image().into_iter().chain(files).collect(),
            size_mib: 2048,
        }),
    }
}

/// What the agent relies on, and what belongs in any root.
fn every_image() -> Vec<GuestFile> {
    let directory = |path, mode| GuestFile::Directory { path, mode };
    let symlink = |path, target| GuestFile::Symlink { path, target };
    vec![
        directory("dev", 0o755),
        directory("mnt", 0o755),
        directory("proc", 0o555),
        directory("root", 0o700),
        directory("run", 0o755),
        directory("sys", 0o555),
        directory("tmp", 0o1777),
        directory("var/tmp", 0o1777),
        text("etc/hostname", "hyperfork\n"),
        text("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
        text("etc/resolv.conf", ""),
        symlink("etc/machine-id", "/run/hyperfork/machine-id"),
        GuestFile::Regular {
            path: "usr/lib/hyperfork/agent",
            mode: 0o755,
            content: Cow::Borrowed(AGENT),
        },
        GuestFile::Regular {
            path: "usr/lib/hyperfork/renew-ssh-host-keys",
            mode: 0o755,
            content: Cow::Borrowed(include_bytes!(
                "../../../guest/images/every/renew-ssh-host-keys"
            )),
        },
        directory("etc/hyperfork/clone.d", 0o755),
        directory("etc/ssh", 0o755),
        symlink("usr/bin/hf-fork", "../lib/hyperfork/agent"),
        symlink("usr/bin/hf-done", "../lib/hyperfork/agent"),
    ]
}

fn text(path: &'static str, content: &'static str) -> GuestFile {
    GuestFile::Regular {
        path,
        mode: 0o644,
        content: Cow::Borrowed(content.as_bytes()),
    }
}
