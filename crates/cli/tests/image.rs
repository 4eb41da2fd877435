//! Images, as far as that is quick: what is in the cache, and what an interrupted
//! build leaves there.

mod support;

use std::fs;
use std::path::Path;
use support::{Ended, User, eventually, finish, signal};

fn entries(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// The tools that build into this cache.
fn builders(cache: &Path) -> Vec<String> {
    let cache = cache.to_str().expect("a path");
    let commands = entries(Path::new("/proc")).into_iter().filter_map(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some(String::from_utf8_lossy(&words).replace('\0', " "))
    });
    commands.filter(|command| command.contains(cache)).collect()
}

#[test]
fn a_cache_with_nothing_in_it_lists_no_images() {
    let user = User::new();
    let ls = |flag: &str| {
        let mut command = user.command(&["image", "ls", flag]);
        Ended::of(
            command
                .env("XDG_CACHE_HOME", user.path("cache"))
                .output()
                .unwrap(),
        )
    };
    assert_eq!(ls("--json").stdout, "[]\n");
    assert_eq!(ls("--quiet").stdout, "");
}

#[test]
fn an_interrupted_build_leaves_nothing_half_done() {
    let user = User::new();
    let cache = user.path("cache");
    let mut command = user.command(&["image", "build", "base"]);
    command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let child = command.env("XDG_CACHE_HOME", &cache).spawn().unwrap();
    // The kernel takes minutes: there is time enough.
    eventually("a build", || !builders(&cache).is_empty());
    signal(&child, "INT");
    let ended = finish(child);
    assert_eq!(ended.status, 130, "{ended:?}");
    assert!(ended.stderr.contains("error: interrupted"), "{ended:?}");
    let cache = cache.join("hyperfork");
    for directory in ["tmp", "images", "kernels"] {
        assert!(entries(&cache.join(directory)).is_empty(), "{directory}");
    }
    eventually("the tools' end", || builders(&cache).is_empty());
}
