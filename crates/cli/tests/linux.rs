//! The life of VMs, on Linux with the image `base`, which is built when it is
//! missing.

#![allow(clippy::unwrap_used)] // A test fails by panicking.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use support::{Ended, HYPERFORK, User, eventually, finish, signal};

fn boot(user: &User, name: &str, more: &[&str]) {
    let mut args = vec!["run", "-d", "--quiet", "--name", name, "--memory", "256MiB"];
    args.extend(more);
    assert_eq!(user.ok(&args), format!("{name}\n"));
}

fn exec(user: &User, vm: &str, script: &str) -> Ended {
    user.run(&["exec", vm, "--", "sh", "-c", script])
}

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

#[test]
fn a_fork_goes_on_where_its_parent_was_and_each_has_its_own_files() {
    let user = User::new();
    let script = "i=0; while :; do i=$((i+1)); echo $i; echo $i > /tmp/i; sleep 0.2; done";
    boot(&user, "p", &["--", "sh", "-c", script]);
    let counted = |vm: &str| {
        user.ok(&["logs", vm])
            .lines()
            .last()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0)
    };
    eventually("the program's start", || counted("p") >= 2);
    exec(&user, "p", "echo before > /root/file");

    let report = user.json(&["fork", "p", "-n", "2", "--json"]);
    assert_eq!(report["clones"][1]["name"], "p-2");
    let at_fork: u32 = counted("p");
    for vm in ["p", "p-1", "p-2"] {
        // The same program goes on, in the parent and in each clone.
        eventually("more counting", || counted(vm) > at_fork);
        assert_eq!(
            exec(&user, vm, "hostname; cat /root/file").stdout,
            format!("{vm}\nbefore\n")
        );
        exec(&user, vm, &format!("echo {vm} > /root/file"));
    }
    for vm in ["p", "p-1", "p-2"] {
        assert_eq!(exec(&user, vm, "cat /root/file").stdout, format!("{vm}\n"));
    }
    // A clone's log begins with the clone.
    assert!(!user.ok(&["logs", "p-1"]).starts_with("1\n"));

    user.ok(&["fork", "p-1"]);
    assert_eq!(exec(&user, "p-1-1", "cat /root/file").stdout, "p-1\n");
    user.ok(&["rm", "-f", "p", "p-1", "p-2", "p-1-1"]);
    user.must_be_clean();
}

/// A process's threads that handle what its guest writes, and whether the kernel lets them
/// do all that the process may (0) or what a filter says (2).
fn seccomp_modes(user: &User, vm: &str) -> BTreeMap<String, u32> {
    let pid = user.json(&["inspect", vm])["pid"].as_u64().unwrap();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let threads = tasks.map(|task| {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim().to_owned()
        };
        (field("Name:"), field("Seccomp:").parse().unwrap())
    });
    let of_guest = |name: &str| name.starts_with("vcpu") || name == "devices";
    threads.filter(|(name, _)| of_guest(name)).collect()
}

#[test]
fn the_threads_that_serve_a_guest_are_confined_in_a_vm_and_in_clones_of_either_kind() {
    let user = User::new();
    boot(&user, "p", &["--cpus", "2"]);
    user.ok(&["fork", "p"]);
    user.ok(&["fork", "p", "--strategy", "process-fork"]);
    let confined = ["devices", "vcpu0", "vcpu1"].map(|name| (name.to_owned(), 2));
    for vm in ["p", "p-1", "p-2"] {
        assert_eq!(seccomp_modes(&user, vm), confined.clone().into(), "{vm}");
        let written = exec(&user, vm, "echo $HOSTNAME >/file && sync && cat /file");
        assert_eq!(written.status, 0, "{written:?}");
    }
}

/// Prints the processors of PID 1 and of a program, how many a program is told of, and
/// whether PID 1 and vsock's interrupt share one; each a line.
const PLACEMENT: &str = r#"
allowed() { sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/$1/status; }
vsock=$(cd /sys/bus/virtio/drivers/vmw_vsock_virtio_transport && echo virtio*)
irq=$(sed -n "s/^ *\([0-9]*\):.*[[:space:]]$vsock\$/\1/p" /proc/interrupts)
allowed 1; allowed self; nproc
grep -q "$(allowed 1)" /proc/irq/$irq/effective_affinity_list && echo shared || echo apart
"#;

#[test]
fn where_the_kernel_is_emulated_the_agent_keeps_off_vsocks_processor_and_programs_do_not() {
    let user = User::new();
    boot(&user, "p", &["--cpus", "2"]);
    user.ok(&["fork", "p"]);
    for vm in ["p", "p-1"] {
        let told = exec(&user, vm, PLACEMENT).stdout;
        let lines: Vec<&str> = told.lines().collect();
        let emulated = exec(&user, vm, "grep -qw hyperfork.pvm /proc/cmdline").status == 0;
        match (emulated, lines.as_slice()) {
            (true, ["0" | "1", "0-1", "2", "apart"]) | (false, ["0-1", "0-1", "2", _]) => {}
            _ => panic!("{vm}: {told}"),
        }
    }
}

#[test]
fn a_volume_is_shared_and_read_only_where_asked() {
    let user = User::new();
    for (name, content) in [("data", "D"), ("fixed", "F")] {
        fs::create_dir(user.path(name)).unwrap();
        fs::write(user.path(name).join("file"), content).unwrap();
    }
    let volume = |name: &str, to: &str| format!("{}:{to}", user.path(name).display());
    let (data, fixed) = (volume("data", "/data"), volume("fixed", "/fixed:ro"));
    boot(&user, "p", &["-v", &data, "-v", &fixed]);
    assert_eq!(exec(&user, "p", "cat /data/file /fixed/file").stdout, "DF");
    assert_eq!(exec(&user, "p", "echo guest > /data/new").status, 0);
    assert_eq!(support::read(user.path("data").join("new")), "guest\n");
    assert_ne!(exec(&user, "p", "echo guest > /fixed/new").status, 0);
    assert!(!user.path("fixed").join("new").exists());
}

/// What a guest writes and frees, MiB, and what of that comes back at least: some of it has
/// neighbours in use.
const FREED: u64 = 24;
const COMES_BACK: u64 = 16;

#[test]
fn what_a_guest_frees_is_given_back_before_its_first_fork_and_by_clones_too() {
    let user = User::new();
    boot(&user, "p", &[]);
    let peak = must_give_back(&user, "p");
    user.ok(&["fork", "p", "--quiet"]);
    let [shared, _] = memory(&user, "p-1");
    assert!(shared + COMES_BACK <= peak, "{shared} of {peak} MiB");
    must_give_back(&user, "p-1");
    // Nobody misses anything.
    for vm in ["p", "p-1"] {
        let written = exec(
            &user,
            vm,
            "dd if=/bin/busybox of=/new && cmp /bin/busybox /new",
        );
        assert_eq!(written.status, 0, "{written:?}");
        let console = support::read(user.run_dir().join(vm).join("console.log"));
        assert!(!console.contains("BUG"), "{console}");
    }
}

/// Has a guest write and free memory, until that is no longer its own. Gives what it had.
fn must_give_back(user: &User, vm: &str) -> u64 {
    let own = || memory(user, vm)[1];
    let before = own();
    // It holds all of it until somebody reads, which nobody does.
    let script = format!("dd if=/dev/zero bs={FREED}M count=1 | sleep 1000");
    let program = user.start(&["exec", vm, "--", "sh", "-c", &script]);
    eventually("its memory", || own() >= before + FREED);
    let peak = own();
    user.ok(&["exec", vm, "--", "killall", "sleep"]);
    finish(program);
    eventually("its memory again", || own() + COMES_BACK <= peak);
    peak
}

/// MiB that a VM shares, and has of its own.
fn memory(user: &User, vm: &str) -> [u64; 2] {
    let info = user.json(&["inspect", vm]);
    ["shared_kib", "private_kib"].map(|key| info[key].as_u64().unwrap() >> 10)
}

#[test]
fn a_guest_that_panics_is_told_by_its_own_words() {
    let user = User::new();
    let args = [
        "run",
        "-d",
        "-q",
        "--net",
        "none",
        "--append",
        "init=/no/such/init panic=-1",
        "--name",
        "p",
    ];
    let line = user.fails(125, &args);
    assert!(line.contains("panicked"), "{line}");
    user.must_be_clean();
}

#[test]
fn a_guest_that_never_answers_is_given_up() {
    let user = User::new();
    // As PID 1 it waits for input for ever.
    let args = [
        "run",
        "-d",
        "-q",
        "--net",
        "none",
        "--append",
        "init=/bin/cat",
        "--ready-timeout",
        "20s",
    ];
    let line = user.fails(125, &args);
    assert!(line.contains("ready") && line.contains("20 s"), "{line}");
    user.must_be_clean();
}

#[test]
fn a_fork_says_how_long_its_clones_may_take_and_the_parent_outlives_those_that_take_longer() {
    let user = User::new();
    boot(&user, "p", &[]);
    // No guest answers in so short a time.
    let line = user.fails(1, &["fork", "p", "-q", "--ready-timeout", "1ms"]);
    assert!(line.contains("p-1") && line.contains("ready"), "{line}");
    assert_eq!(exec(&user, "p", "true").status, 0);
    // Another time is another's.
    user.ok(&["fork", "p", "-q"]);
}
