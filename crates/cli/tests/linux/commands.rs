//! Commands in a VM, and files into it and out of it.

use super::support::{HYPERFORK, User, finish, signal};
use super::{boot, exec};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

#[test]
fn a_command_in_a_vm_has_its_own_streams_environment_and_status() {
    let user = User::new();
    boot(&user, "p", &[]);

    let ended = exec(&user, "p", "echo out; echo err >&2; exit 7");
    assert_eq!(
        (ended.status, ended.stdout.as_str(), ended.stderr.as_str()),
        (7, "out\n", "err\n")
    );

    let script = "pwd; echo $A; hostname";
    let args = [
        "exec", "-w", "/tmp", "-e", "A=b c", "p", "--", "sh", "-c", script,
    ];
    assert_eq!(user.ok(&args), "/tmp\nb c\np\n");

    let mut child = user.command(&["exec", "-i", "p", "--", "wc", "-c"]);
    let mut child = child
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(&vec![b'x'; 300_000])
        .unwrap();
    assert_eq!(finish(child).stdout, "300000\n");

    // Without -i there is no input, whatever ours is.
    assert_eq!(user.ok(&["exec", "p", "--", "cat"]), "");

    assert!(
        user.fails(127, &["exec", "p", "--", "nosuch"])
            .contains("nosuch")
    );
    assert!(
        user.fails(126, &["exec", "p", "--", "/etc/passwd"])
            .contains("/etc/passwd")
    );

    let sent = user.ok(&["exec", "p", "--", "seq", "1", "20000"]);
    let expected: String = (1..=20000).map(|n| format!("{n}\n")).collect();
    assert!(sent == expected, "{} bytes", sent.len());

    user.ok(&["pause", "p"]);
    assert!(
        user.fails(125, &["exec", "p", "--", "true"])
            .contains("resume p")
    );
    user.ok(&["resume", "p"]);
    user.ok(&["exec", "p", "--", "true"]);
}

#[test]
fn a_terminal_is_passed_on_with_its_size() {
    let user = User::new();
    boot(&user, "p", &[]);
    let on_terminal = |command: &str| {
        let line = format!("stty rows 33 cols 77; {HYPERFORK} {command}; stty -a");
        let mut script = Command::new("script");
        script
            .args(["-qec", &line, "/dev/null"])
            .env("XDG_RUNTIME_DIR", user.path("run"));
        let mut child = script
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Open until the end: script(1) ends when its input does.
        let input = child.stdin.take().unwrap();
        let mut shown = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut shown)
            .unwrap();
        drop(input);
        child.wait().unwrap();
        shown
    };
    let shown = on_terminal("exec -it p -- sh -c 'tty; stty size'");
    assert!(
        shown.contains("/dev/pts/") && shown.contains("33 77"),
        "{shown}"
    );
    // The terminal is as it was, also after an error.
    assert!(
        shown.contains(" icanon") && shown.contains(" echo "),
        "{shown}"
    );
    let shown = on_terminal("exec -it p -- nosuch");
    assert!(
        shown.contains("error: ") && shown.contains(" icanon"),
        "{shown}"
    );
    let line = user.fails(125, &["exec", "-it", "p", "--", "true"]);
    assert!(line.contains("not a terminal"), "{line}");
}

#[test]
fn ctrl_c_reaches_a_command_and_the_second_leaves_it() {
    let user = User::new();
    boot(&user, "p", &[]);
    let start = |script: &str| {
        let mut child = user.start(&["exec", "p", "--", "sh", "-c", script]);
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        (child, output)
    };
    let (child, mut output) =
        start("trap 'echo caught; exit 9' INT; echo up; while :; do sleep 0.1; done");
    signal(&child, "INT");
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!((finish(child).status, rest.as_str()), (9, "caught\n"));

    let (child, _output) = start("trap 'echo no >&2' INT; echo up; while :; do sleep 0.1; done");
    signal(&child, "INT");
    let mut said = [0; 2];
    let mut child = child;
    child
        .stderr
        .as_mut()
        .unwrap()
        .read_exact(&mut said)
        .unwrap();
    assert_eq!(&said, b"no");
    signal(&child, "INT");
    assert_eq!(finish(child).status, 130);
}

#[test]
fn files_and_directories_go_both_ways() {
    let user = User::new();
    boot(&user, "p", &[]);
    let tree = user.path("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("a"), "A").unwrap();
    fs::write(tree.join("sub/b"), vec![7; 200_000]).unwrap();
    std::os::unix::fs::symlink("a", tree.join("link")).unwrap();
    let tree = tree.to_str().unwrap();

    user.ok(&["cp", tree, "p:/root"]);
    let back = user.path("back");
    user.ok(&["cp", "p:/root/tree", back.to_str().unwrap()]);
    assert_eq!(fs::read(back.join("sub/b")).unwrap(), vec![7; 200_000]);
    assert_eq!(
        fs::read_link(back.join("link")).unwrap().to_str(),
        Some("a")
    );

    // Into a directory that is there, and its contents alone.
    user.ok(&["cp", "p:/root/tree", back.to_str().unwrap()]);
    assert!(back.join("tree/a").exists());
    user.ok(&["cp", &format!("{tree}/."), "p:/root/new"]);
    assert_eq!(user.ok(&["exec", "p", "--", "cat", "/root/new/link"]), "A");

    // A file under another name.
    user.ok(&["cp", &format!("{tree}/a"), "p:/root/renamed"]);
    assert_eq!(user.ok(&["exec", "p", "--", "cat", "/root/renamed"]), "A");

    // As archives.
    let archive = user
        .command(&["cp", "p:/root/renamed", "-"])
        .output()
        .unwrap()
        .stdout;
    let mut child = user.command(&["cp", "-", "p:/tmp"]);
    let mut child = child.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&archive).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(user.ok(&["exec", "p", "--", "cat", "/tmp/renamed"]), "A");

    assert!(user.fails(1, &["cp", "p:/nope", "."]).contains("/nope"));
    assert!(
        user.fails(1, &["cp", tree, "p:/no/such/place"])
            .contains("/no/such")
    );
    assert!(
        user.fails(1, &["cp", "/no/such", "p:/root"])
            .contains("/no/such")
    );
}

#[test]
fn a_run_in_the_foreground_is_its_command() {
    let user = User::new();
    let run = |command: &[&str]| {
        // Where there can be none, a network would be one line more.
        let mut args = vec!["run", "--rm", "-q", "--net", "none", "-e", "A=1", "--"];
        args.extend(command);
        user.run(&args)
    };
    let ended = run(&["sh", "-c", "echo $A; echo err >&2; exit 3"]);
    assert_eq!(
        (ended.status, ended.stdout.as_str(), ended.stderr.as_str()),
        (3, "1\n", "err\n")
    );
    user.must_be_clean();
    assert!(run(&["nosuch"]).must_have_failed(127).contains("nosuch"));
    user.must_be_clean();
}

#[test]
fn ctrl_c_in_the_foreground_reaches_the_command_first() {
    let user = User::new();
    let script = "trap 'echo caught; exit 9' INT; echo up; while :; do sleep 0.1; done";
    let args = [
        "run", "-q", "--name", "p", "--memory", "256MiB", "--", "sh", "-c", script,
    ];
    let mut child = user.start(&args);
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    signal(&child, "INT");
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!((finish(child).status, rest.as_str()), (9, "caught\n"));
    let info = user.json(&["inspect", "p"]);
    assert_eq!(
        (&info["state"], &info["exit_status"]),
        (&"stopped".into(), &9.into())
    );
}
