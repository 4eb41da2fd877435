//! The images this program ships, built for real into the user's cache (where
//! they stay: the kernel takes minutes the first time).
#![allow(clippy::unwrap_used)] // these are tests

mod common;

use common::Steps;
use hyperfork_image::{Image, ImageStore};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Builds an image, or finds it built, and checks that it then is in the cache.
fn built(name: &str) -> Image {
    let store = ImageStore::open(&ImageStore::default_root().unwrap()).unwrap();
    let image = match store.build(name, &mut ()) {
        Ok(image) => image,
        Err(error) => panic!("{}", common::chain(&error)),
    };
    let mut steps = Steps::default();
    let again = store.build(name, &mut steps).unwrap();
    assert_eq!((&again, &steps.0[..]), (&image, &[][..]));
    assert_eq!(store.resolve(name).unwrap(), Some(again));
    image
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .env("LC_ALL", "C")
        .env("PATH", "/usr/sbin:/usr/bin")
        .args(arguments)
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {complaint}"
    );
    String::from_utf8(output.stdout).unwrap()
}

/// What debugfs(8) answers about a root disk.
fn ask(image: &Image, question: &str) -> String {
    run("debugfs", &["-R", question, image.rootfs.to_str().unwrap()])
}

fn check(image: &Image) {
    let mut kernel = fs::read(&image.kernel).unwrap();
    kernel.truncate(20);
    assert_eq!(kernel[..5], *b"\x7fELF\x02");
    assert_eq!(kernel[18..20], 62_u16.to_le_bytes(), "EM_X86_64");
    // The boot protocol's magic number (Documentation/arch/x86/boot.rst).
    let bzimage = fs::read(&image.bzimage).unwrap();
    assert_eq!(bzimage[0x202..0x206], *b"HdrS");

    run("e2fsck", &["-fn", image.rootfs.to_str().unwrap()]);
    let agent = ask(image, "stat /usr/lib/hyperfork/agent");
    assert!(agent.contains("Mode:  0755"), "{agent}");
    assert!(agent.contains("User:     0   Group:     0"), "{agent}");
    for link in ["hf-fork", "hf-done"] {
        let link = ask(image, &format!("stat /usr/bin/{link}"));
        assert!(link.contains("\"../lib/hyperfork/agent\""), "{link}");
    }
    let header = run("dumpe2fs", &["-h", image.rootfs.to_str().unwrap()]);
    for costly in ["has_journal", "metadata_csum", "uninit_bg", "64bit"] {
        assert!(!header.contains(costly), "{costly} is on");
    }
    assert!(image.size_bytes < fs::metadata(&image.rootfs).unwrap().len());
}

#[test]
fn the_base_image_is_a_kernel_and_a_sound_root_disk_with_busybox_and_the_agent() {
    let image = built("base");
    check(&image);
    let shell = ask(&image, "stat /usr/bin/sh");
    assert!(shell.contains("\"busybox\""), "{shell}");
}

#[test]
fn the_python_image_has_a_numpy_that_starts_without_warnings_and_uses_the_processor() {
    let image = built("python");
    check(&image);
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    ask(&image, &format!("rdump / \"{}\"", root.display()));
    // As a program of the guest finds it, warnings being errors.
    let python = |program: &str| {
        let environment: Vec<String> = image
            .environment
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let mut arguments = vec![root.to_str().unwrap(), "env", "-i"];
        arguments.extend(environment.iter().map(String::as_str));
        arguments.extend(["python3", "-W", "error", "-c", program]);
        run("chroot", &arguments)
    };
    let features = python(
        "import numpy
from numpy.core._multiarray_umath import __cpu_features__ as f
assert numpy.arange(8).sum() == 28
print(*(name for name, on in f.items() if on))",
    );
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap();
    for (flag, feature) in [("sse2", "SSE2"), ("avx2", "AVX2"), ("avx512f", "AVX512F")] {
        let there = |all: &str, one| all.split_whitespace().any(|word| word == one);
        assert_eq!(
            there(&cpuinfo, flag),
            there(&features, feature),
            "{feature}"
        );
    }
    // All it needs is compiled already, so it would not want to write.
    assert_eq!(
        python("import sys, numpy, json; print(sys.flags.utf8_mode, sys.dont_write_bytecode)"),
        "1 True\n"
    );
    assert_compiled(&root.join("usr/lib/python3.11"));
    assert_compiled(&root.join("usr/lib/python3/dist-packages/numpy"));
    assert_eq!(
        python("import hyperfork; print(hyperfork.fork.__name__)"),
        "fork\n"
    );
}

fn assert_compiled(directory: &Path) {
    let compiled = directory.join("__pycache__");
    for entry in fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(module) = name.strip_suffix(".py") {
            let pyc = compiled.join(format!("{module}.cpython-311.pyc"));
            assert!(pyc.exists(), "{} is not compiled", pyc.display());
        }
    }
}
