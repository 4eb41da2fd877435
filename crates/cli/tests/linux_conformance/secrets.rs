//! Secrets, which a machine's clones do not get.

use crate::guest::Guest;
use crate::support::{User, read};
use std::fs;

#[test]
fn clones_know_no_secrets_but_those_they_are_given() {
    let user = User::new();
    let file = user.path("key.pem");
    fs::write(&file, "file-of-p").unwrap();
    let (file, variable) = (file.to_str().unwrap(), "KEY=variable-of-p");
    let given = ["--secret", variable, "--secret-file", file];
    let parent = Guest::boot(&user, "p", &given);
    let known = |guest: &Guest<'_>| guest.sh("echo $KEY; cat /run/hyperfork/secrets/* || :");
    assert_eq!(known(&parent), "variable-of-p\nfile-of-p");
    for name in ["info.json", "monitor.log", "console.log"] {
        let text = read(user.run_dir().join("p").join(name));
        assert!(!text.contains("-of-p"), "{name}: {text}");
    }

    let clone = parent.fork(1).remove(0);
    assert_eq!(known(&clone), "\n");
    clone.remove();

    fs::write(file, "file-of-clone").unwrap();
    let renamed = format!("{file}:other");
    let given = [
        "--secret",
        "KEY=variable-of-clone",
        "--secret-file",
        &renamed,
    ];
    user.ok(&[&["fork", "p", "-q"], &given[..]].concat());
    let clone = parent.relative("p-1");
    assert_eq!(known(&clone), "variable-of-clone\nfile-of-clone");
    clone.sh("test ! -e /run/hyperfork/secrets/key.pem");
    assert_eq!(known(&parent), "variable-of-p\nfile-of-p");
}

#[test]
fn a_guest_without_an_agent_is_forked_only_if_identical_clones_are_wanted() {
    let user = User::new();
    user.ok(&["image", "build", "base"]);
    let images = user.json(&["image", "ls", "--json"]);
    let images = images.as_array().unwrap();
    let base = images.iter().find(|image| image["name"] == "base").unwrap();
    let kernel = base["kernel"].as_str().unwrap();
    let run = |name: &str, more: &[&str]| {
        let run = ["run", "-d", "-q", "--memory", "128MiB", "--kernel", kernel];
        user.ok(&[&run[..], &["--name", name, "--append", "panic=0"], more].concat());
    };
    // It panics soon, for it has no disk, and stands there.
    run("p", &[]);
    let line = user.fails(1, &["fork", "p", "-q"]);
    assert!(
        line.contains("no agent") && line.contains("--identical-clones"),
        "{line}"
    );
    run("q", &["--identical-clones"]);
    user.ok(&["fork", "q", "-q"]);
    assert!(user.names().contains(&"q-1".to_owned()));
}
