//! The run directory, met by commands in states that its VMs did not make, or could not.

mod support;
#[path = "support/trouble.rs"]
mod trouble;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use support::{NANO, User, eventually};
use trouble::{SOON, SmallDisk, finish_within, lives, pid_of, signal, soon, state_of};

fn fifo(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status();
    assert!(made.expect("mkfifo").success());
}

#[test]
fn looking_at_a_run_directory_leaves_alone_what_is_no_vm() {
    let user = User::new();
    user.nano("p");
    let elsewhere = user.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, user.run_dir().join("link")).unwrap();
    fs::create_dir(user.run_dir().join("empty")).unwrap();
    assert_eq!(user.names(), ["p"]);
    assert!(!user.ok(&["tree"]).contains("link"));
    for name in ["link", "empty"] {
        let error = user.fails(1, &["inspect", name]);
        assert!(error.contains("no VM called"), "{error}");
    }
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    assert!(user.run_dir().join("link").is_symlink());
    let empty = fs::read_dir(user.run_dir().join("empty"));
    assert_eq!(empty.expect("still there").count(), 0);
}

#[test]
fn a_fifo_in_a_vms_directory_keeps_no_command_waiting() {
    let user = User::new();
    user.nano("p");
    for file in ["lock", "info.json"] {
        let dir = user.run_dir().join("q");
        fs::create_dir(&dir).unwrap();
        fifo(&dir.join(file));
        for args in [&["ps", "-a"][..], &["tree"]] {
            let ended = soon(&user, args);
            assert_eq!(ended.status, 0, "{ended:?}");
            assert!(ended.stdout.contains('p'), "{ended:?}");
        }
        assert_eq!(soon(&user, &["inspect", "q"]).status, 1);
        let ended = soon(&user, &["rm", "-f", "q"]);
        assert_eq!(ended.status, 0, "{ended:?}");
        assert!(!dir.exists());
    }
}

#[test]
fn a_run_directory_that_others_may_enter_is_refused_with_what_to_do() {
    let user = User::new();
    let mode = |mode| {
        fs::set_permissions(user.run_dir(), fs::Permissions::from_mode(mode)).unwrap();
    };
    assert_eq!(user.names(), [""; 0]);
    mode(0o777);
    let error = user.fails(1, &["ps"]);
    let cure = format!("`chmod 700 {}`", user.run_dir().display());
    assert!(error.contains(&cure), "{error}");
    mode(0o700);
    user.ok(&["ps"]);
}

#[test]
fn a_relative_run_directory_is_refused() {
    let user = User::new();
    let mut command = user.command(&["ps"]);
    command.env("XDG_RUNTIME_DIR", "run");
    command.current_dir(user.path(""));
    let output = command.output().expect("hyperfork");
    let error = support::Ended::of(output).must_have_failed(1);
    assert!(
        error.contains("run/hyperfork is not an absolute path"),
        "{error}"
    );
}

#[test]
fn a_vm_that_was_stopped_on_a_full_disk_is_listed_as_stopped() {
    let user = User::new();
    let disk = SmallDisk::of(&user);
    user.nano("p");
    disk.fill();
    assert_eq!(soon(&user, &["stop", "p"]).status, 0);
    let info = user.json(&["inspect", "p"]);
    assert_eq!(info["state"], "stopped", "{info}");
    disk.make_room();
    user.ok(&["rm", "p"]);
}

#[test]
fn vms_that_stand_still_are_removed_at_the_same_time() {
    let user = User::new();
    user.nano("p");
    user.ok(&["fork", "p", "-n", "31"]);
    let names = user.names();
    let pids: Vec<_> = names.iter().map(|name| pid_of(&user, name)).collect();
    for pid in &pids {
        signal(*pid, "STOP");
        eventually("standing still", || state_of(*pid) == Some('T'));
    }
    let mut args = vec!["rm", "-f", "ghost"];
    args.extend(names.iter().map(String::as_str));
    args.push("spectre");
    // Each takes two seconds, so one after the other they would take longer than that.
    let ended = finish_within(user.start(&args), SOON);
    assert_eq!(ended.status, 1, "{ended:?}");
    assert_eq!(ended.stdout.lines().collect::<Vec<_>>(), names);
    let errors: Vec<_> = ended.stderr.lines().collect();
    assert_eq!(errors.len(), 2, "{ended:?}");
    assert!(errors[0].contains("ghost") && errors[1].contains("spectre"));
    assert!(!pids.iter().any(|pid| lives(*pid)));
    user.must_be_clean();
}

#[test]
fn a_vm_that_was_killed_is_removed_while_the_kernel_still_ends_it() {
    let user = User::new();
    let mut args = vec!["run", "-d", "--name", "p"];
    args.extend(&NANO[..2]);
    // Its memory takes the kernel a while to free.
    args.extend(["--memory", "2GiB", "--append", "touch_mib=1800"]);
    user.ok(&args);
    let pid = pid_of(&user, "p");
    signal(pid, "KILL");
    user.ok(&["rm", "p"]);
    user.must_be_clean();
}
