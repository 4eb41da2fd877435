//! Each error is one line, with the right exit status.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use support::{Ended, HYPERFORK, NANO, User};

fn nano<'a>(args: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["run"];
    all.extend(NANO);
    all.extend(args);
    all
}

#[test]
fn a_command_line_that_makes_no_sense_exits_with_2() {
    let user = User::new();
    for args in [
        &["frobnicate"][..],
        &[],
        &["run", "--cpus", "9"],
        &["run", "--cpus", "0"],
        &["run", "--memory", "63MiB"],
        &["run", "--memory", "65MiB"],
        &["run", "--memory", "lots"],
        &["run", "--ready-timeout", "0s"],
        &["fork", "p", "--ready-timeout", "0s"],
        &["run", "--name", "a b"],
        &["run", "--initrd", "/dev/null"],
        &["run", "-d", "--rm"],
        &["run", "--image", "nano", "--", "true"],
        &["run", "--image", "nano", "--kernel", "/dev/null"],
        &["run", "--image", "nano", "--append", "touch_mib=4 frob=1"],
        &["run", "-v", "/no/such:/data"],
        &["run", "--secret", "HYPERFORK_NOT_SET"],
        &["run", "--secret-file", "/no/such"],
        &["run", "--image", "nano", "--secret", "A=1"],
        &["run", "--image", "base", "--identical-clones"],
        &["fork", "p", "--secret-file", "/dev/null:../x"],
        &["run", "--disk", "/no/such"],
        &["run", "--image", "nano", "--disk", "/proc/version"],
        &["fork", "p", "-n", "0"],
        &["fork", "p", "--strategy", "copy"],
        &["exec", "p"],
        &["cp", "a", "b"],
        &["cp", "p:/a", "q:/b"],
        &["cp", "p:/dev/vda", "-"],
        &["cp", "a", "p:/dev/vda"],
        &["image"],
    ] {
        let ended = user.run(args);
        assert_eq!(ended.status, 2, "{args:?}: {ended:?}");
        assert_eq!(ended.stdout, "", "{args:?}");
    }
    user.must_be_clean();
}

#[test]
fn every_verb_explains_itself() {
    let user = User::new();
    for verb in [
        "doctor", "image", "run", "ps", "inspect", "logs", "events", "pause", "resume", "stop",
        "rm", "exec", "cp", "fork", "tree", "demo",
    ] {
        assert!(user.ok(&[verb, "--help"]).contains("Example"), "{verb}");
    }
}

#[test]
fn an_unknown_vm_is_told_by_every_verb() {
    let user = User::new();
    for args in [
        &["inspect", "ghost"][..],
        &["logs", "ghost"],
        &["pause", "ghost"],
        &["resume", "ghost"],
        &["stop", "ghost"],
        &["rm", "ghost"],
        &["rm", "-f", "ghost"],
        &["cp", "ghost:/etc", "."],
        &["fork", "ghost"],
    ] {
        let line = user.fails(1, args);
        assert!(
            line.contains("no VM called ghost") && line.contains("ps -a"),
            "{args:?}: {line}"
        );
    }
    let line = user.fails(125, &["exec", "ghost", "--", "true"]);
    assert!(line.contains("no VM called ghost"), "{line}");
}

#[test]
fn a_copy_to_what_is_no_file_is_refused_before_the_vm_is_asked() {
    let user = User::new();
    for source in ["ghost:/etc/passwd", "ghost:/dev/vdb"] {
        let line = user.fails(1, &["cp", source, "/dev/null"]);
        assert!(line.contains("/dev/null is a device"), "{line}");
    }
}

#[test]
fn settings_in_the_environment_are_checked() {
    let user = User::new();
    for (name, value) in [
        ("HYPERFORK_POOL_MAX", "many"),
        ("HYPERFORK_PRIME", "nonsense"),
    ] {
        let mut command = user.command(&nano(&["-d"]));
        let output = command.env(name, value).output().expect("hyperfork");
        let line = Ended::of(output).must_have_failed(125);
        assert!(line.contains(&format!("{name}={value} is")), "{line}");
    }
    user.must_be_clean();
}

#[test]
fn a_name_in_use_is_refused_and_the_vm_that_has_it_unharmed() {
    let user = User::new();
    user.nano("p");
    let line = user.fails(125, &nano(&["-d", "--name", "p"]));
    assert!(
        line.contains("name p is in use") && line.contains("rm p"),
        "{line}"
    );
    assert_eq!(user.json(&["inspect", "p"])["state"], "running");
    user.ok(&["stop", "p"]);
    user.fails(125, &nano(&["-d", "--name", "p"]));
    user.ok(&["rm", "p"]);
    user.nano("p");
}

#[test]
fn more_memory_than_the_host_has_is_refused() {
    let user = User::new();
    for memory in ["1048576GiB", "999TiB"] {
        let line = user.fails(125, &["run", "-d", "--image", "nano", "--memory", memory]);
        assert!(
            line.contains("more memory than this host has") && line.contains("--memory"),
            "{line}"
        );
    }
    user.must_be_clean();
}

#[test]
fn a_kernel_that_is_none_or_is_cut_short_is_refused() {
    let user = User::new();
    let (text, cut, long) = (user.path("text"), user.path("cut"), user.path("long"));
    fs::write(&text, "not a kernel, only a text\n".repeat(1000)).unwrap();
    // An ELF header that promises more than there is.
    let program = fs::read(HYPERFORK).unwrap();
    fs::write(&cut, &program[..100]).unwrap();
    fs::write(&long, &program[..8192]).unwrap();
    let run = |kernel: &std::path::Path| {
        user.fails(125, &["run", "-d", "--kernel", kernel.to_str().unwrap()])
    };
    assert!(run(&text).contains("is not a kernel"));
    assert!(run(&cut).contains("damaged or incomplete"));
    assert!(run(&long).contains("damaged or incomplete"));
    assert!(run(&user.path("absent")).contains("cannot read"));
    user.must_be_clean();
}

#[test]
fn a_guest_that_is_not_ready_in_time_is_given_up_and_leaves_nothing() {
    let user = User::new();
    let touch = [
        "--memory",
        "2GiB",
        "--append",
        "touch_mib=1800",
        "--ready-timeout",
        "10ms",
    ];
    let mut args = vec!["run", "-d", "--image", "nano"];
    args.extend(touch);
    let line = user.fails(125, &args);
    assert!(
        line.contains("did not become ready") && line.contains("--ready-timeout"),
        "{line}"
    );
    user.must_be_clean();
}

#[test]
fn a_vm_that_has_stopped_cannot_be_forked_paused_or_spoken_to() {
    let user = User::new();
    user.nano("p");
    user.ok(&["stop", "p"]);
    for args in [
        &["fork", "p"][..],
        &["pause", "p"],
        &["resume", "p"],
        &["cp", "p:/etc", "."],
    ] {
        let line = user.fails(1, args);
        assert!(line.contains("p is not running"), "{args:?}: {line}");
    }
    let line = user.fails(125, &["exec", "p", "true"]);
    assert!(line.contains("p is not running"), "{line}");
    // To stop it once more is no mistake.
    user.ok(&["stop", "p"]);
}

#[test]
fn a_running_vm_is_removed_only_by_force() {
    let user = User::new();
    user.nano("p");
    let line = user.fails(1, &["rm", "p"]);
    assert!(line.contains("rm -f p"), "{line}");
    user.ok(&["rm", "-f", "p"]);
    user.must_be_clean();
}

#[test]
fn of_several_vms_those_that_can_be_are_removed() {
    let user = User::new();
    user.nano("p");
    let ended = user.run(&["rm", "-f", "ghost", "p"]);
    assert_eq!((ended.status, ended.stdout.as_str()), (1, "p\n"));
    assert!(ended.stderr.contains("ghost"), "{ended:?}");
    user.must_be_clean();
}

#[test]
fn forks_beyond_the_limit_are_refused() {
    let user = User::new();
    user.ok(&nano(&["-d", "--name", "p", "--max-forks", "2"]));
    user.ok(&["fork", "p", "-n", "2"]);
    let line = user.fails(1, &["fork", "p"]);
    assert!(
        line.contains("may be forked 2 times") && line.contains("--max-forks"),
        "{line}"
    );
}

#[test]
fn the_embedded_guest_has_no_agent() {
    let user = User::new();
    user.nano("p");
    let line = user.fails(1, &["fork", "p", "--secret", "A=1"]);
    assert!(line.contains("no agent that could take secrets"), "{line}");
    assert!(
        user.fails(125, &["exec", "p", "true"])
            .contains("p has no agent")
    );
    let line = user.fails(1, &["inspect", "--token", "p"]);
    assert!(line.ends_with("VMs without an agent have none"), "{line}");
}

#[test]
fn an_unknown_image_is_told_with_those_there_are() {
    let user = User::new();
    let line = user.fails(125, &["run", "-d", "--image", "plan9"]);
    assert!(line.contains("plan9") && line.contains("python"), "{line}");
    assert!(line.contains("nano"), "{line}");
    // Which cannot be built.
    let line = user.fails(1, &["image", "build", "plan9"]);
    assert!(!line.contains("nano"), "{line}");
    user.fails(1, &["image", "rm", "plan9"]);
}

/// Runs the program where /dev is as `set_up` makes it, a shell command run as
/// root in a mount namespace of its own.
fn with_devices(set_up: &str, args: &str) -> Ended {
    let temp = tempfile::tempdir().expect("a directory");
    let program = temp.path().join("hyperfork");
    fs::copy(HYPERFORK, &program).expect("a copy");
    for (path, mode) in [(temp.path(), 0o777), (&program, 0o755)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    }
    let script = format!("mount -t tmpfs none /dev && {set_up} \"$0\" {args}");
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .arg(&program)
        .env("XDG_RUNTIME_DIR", temp.path().join("run"))
        .env("XDG_CACHE_HOME", temp.path().join("cache"))
        .output()
        .expect("unshare");
    Ended::of(output)
}

const NOBODY: &str = "mknod -m 600 /dev/kvm c 10 232 && mknod -m 666 /dev/null c 1 3 && \
     setpriv --reuid 65534 --regid 65534 --clear-groups";

#[test]
fn a_host_without_kvm_is_told_what_to_do() {
    let line = with_devices("exec", "run -d --image nano").must_have_failed(125);
    assert!(
        line.contains("no /dev/kvm") && line.contains("doctor"),
        "{line}"
    );
    let doctor = with_devices("exec", "doctor");
    assert_eq!(doctor.status, 1, "{doctor:?}");
    assert!(doctor.stdout.contains("FAILED   kvm"), "{doctor:?}");
    let json = with_devices("exec", "doctor --json");
    let report: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((json.status, &report["ready"]), (1, &false.into()));
    assert_eq!(report["host"]["kvm"], "none");
}

#[test]
fn a_user_without_permission_is_told_what_to_do() {
    let line = with_devices(NOBODY, "run -d --image nano").must_have_failed(125);
    assert!(line.contains("no permission to open /dev/kvm"), "{line}");
    let doctor = with_devices(NOBODY, "doctor");
    assert_eq!(doctor.status, 1, "{doctor:?}");
    assert!(
        doctor.stdout.contains("you may not open /dev/kvm"),
        "{doctor:?}"
    );
}

#[test]
fn a_closed_standard_output_is_no_crash() {
    let user = User::new();
    user.nano("p");
    let mut child = user.start(&["inspect", "p"]);
    drop(child.stdout.take());
    let ended = support::finish(child);
    assert!(!ended.stderr.contains("panicked"), "{ended:?}");
}

#[test]
fn the_program_of_vms_explains_itself() {
    let program = Path::new(HYPERFORK).with_file_name("hyperfork-vm");
    for args in [&["vm", "x"][..], &["vm"], &[]] {
        let mut command = Command::new(&program);
        let output = command.args(args).stdin(Stdio::null()).output();
        let ended = Ended::of(output.expect("the program to start"));
        assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{args:?}");
        let told = "hyperfork-vm is started by hyperfork: see `hyperfork --help`\n";
        assert!(ended.stderr.ends_with(told), "{ended:?}");
    }
}

/// An incomplete installation: this `hyperfork`, with the script `vm` as `hyperfork-vm` beside it.
fn installed_with(user: &User, vm: Option<&str>, args: &[&str]) -> Ended {
    let directory = user.path("bin");
    fs::create_dir_all(&directory).expect("a directory");
    let program = directory.join("hyperfork");
    fs::copy(HYPERFORK, &program).expect("a copy of the program");
    if let Some(script) = vm {
        let path = directory.join("hyperfork-vm");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a script");
    }
    let mut command = Command::new(program);
    command.args(args);
    // Without cargo, which would build the other program.
    command
        .env_remove("CARGO")
        .env("XDG_RUNTIME_DIR", user.path("run"));
    Ended::of(command.output().expect("the program to start"))
}

#[test]
fn the_program_of_vms_is_of_the_same_build_or_it_is_said() {
    let user = User::new();
    for (vm, told) in [
        (None, "bin/hyperfork-vm is missing"),
        (Some("echo 1f"), "bin/hyperfork-vm is of another build"),
        (Some("exit 3"), "bin/hyperfork-vm: it does not say"),
        (
            Some("exec sleep 1000"),
            "bin/hyperfork-vm: it does not answer within 5 s",
        ),
    ] {
        let run = installed_with(&user, vm, &["run", "-d", "--image", "nano"]);
        let line = run.must_have_failed(125);
        assert!(line.contains(told), "{line}");
        let doctor = installed_with(&user, vm, &["doctor"]);
        assert_eq!(doctor.status, 1, "{doctor:?}");
        let found = doctor.stdout.lines().find(|line| line.contains(told));
        let is_failure = found.is_some_and(|line| line.starts_with("FAILED   program of VMs"));
        assert!(is_failure, "{doctor:?}");
    }
}
