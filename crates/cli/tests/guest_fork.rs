//! Guests that fork themselves: by the signal port, `hf-fork` and `hf-done`, and from
//! Python.

mod support;

use hyperfork_api::VmName;
use hyperfork_nano::{BAD, report};
use serde_json::Value;
use std::fs;
use support::{Ended, User, eventually};

fn boot_nano(user: &User, name: &str, more: &[&str]) {
    let mut args = vec!["run", "-d", "--name", name, "--image", "nano"];
    args.extend(["--memory", "64MiB"]);
    args.extend(more);
    assert_eq!(user.ok(&args), format!("{name}\n"));
}

fn boot(user: &User, more: &[&str]) {
    let mut args = vec!["run", "-d", "--quiet", "--name", "p", "--memory", "256MiB"];
    args.extend(more);
    assert_eq!(user.ok(&args), "p\n");
}

fn sh(user: &User, vm: &str, script: &str) -> Ended {
    user.run(&["exec", vm, "--", "sh", "-c", script])
}

/// The content of a file that some program in the guest will write.
fn written(user: &User, vm: &str, file: &str) -> String {
    let mut text = String::new();
    eventually(&format!("{file} in {vm}"), || {
        text = sh(user, vm, &format!("cat {file}")).stdout;
        text.ends_with('\n')
    });
    text
}

fn inspect(user: &User, vm: &str) -> Value {
    user.json(&["inspect", vm])
}

/// Waits for a VM's result, and gives the state it is in then.
fn result(user: &User, vm: &str, status: u32) -> String {
    eventually(&format!("{vm}'s result {status}"), || {
        let ended = user.run(&["inspect", vm]);
        ended.status == 0 && {
            let info: Value = serde_json::from_str(&ended.stdout).expect("JSON");
            info["exit_status"] == status
        }
    });
    inspect(user, vm)["state"].as_str().unwrap_or("").to_owned()
}

#[test]
fn a_guest_forks_itself_and_its_clones_do_so_again() {
    let user = User::new();
    boot_nano(&user, "p", &["--append", "mode=fork fork=2 depth=2"]);
    for (vm, number) in [
        ("p-1-1", 1),
        ("p-1-2", 2),
        ("p-2-1", 1),
        ("p-2-2", 2),
        // Parents all three, the clones among them included.
        ("p", 0),
        ("p-1", 0),
        ("p-2", 0),
    ] {
        // The embedded guest lives on: it may have more work to do.
        assert_eq!(result(&user, vm, report(number)), "running", "{vm}");
    }
    let info = inspect(&user, "p");
    assert_eq!(info["forks"], 2);
    let fork = &info["guest_fork"]["report"];
    assert_eq!(fork["parent"], "p");
    assert_eq!(fork["clones"][1]["name"], "p-2");
    assert_eq!(inspect(&user, "p-1-1")["guest_fork"], Value::Null);
    assert_eq!(user.names().len(), 7);
}

#[test]
fn a_guest_that_asks_for_more_clones_than_it_may_have_gets_none_and_is_told() {
    for (more, asked, why) in [
        (&["--max-forks", "2"][..], "3", "may be forked 2 times"),
        (&["--max-forks", "0"], "1", "may be forked 0 times"),
        (&[], "2000", "1 to 1024 clones"),
        (&[], "0", "1 to 1024 clones"),
    ] {
        let user = User::new();
        let append = format!("mode=fork fork={asked}");
        boot_nano(&user, "p", &[more, &["--append", &append]].concat());
        result(&user, "p", BAD);
        let info = inspect(&user, "p");
        let error = info["guest_fork"]["error"].as_str().expect("an error");
        assert!(error.contains(why), "{error}");
        assert_eq!(info["forks"], 0);
        assert_eq!(user.names(), ["p"]);
        assert!(user.ok(&["logs", "p"]).contains("Refused"));
    }
}

#[test]
fn a_fork_that_the_host_cannot_do_is_told_to_the_guest_and_to_who_runs_it() {
    let user = User::new();
    // Its clones' names would be too long.
    let longest = "x".repeat(VmName::MAX_LEN);
    boot_nano(&user, &longest, &["--append", "mode=fork fork=2"]);
    result(&user, &longest, BAD);
    let info = inspect(&user, &longest);
    let error = info["guest_fork"]["error"].as_str().expect("an error");
    assert!(error.contains("name"), "{error}");
    let said = user.ok(&["logs", &longest]);
    assert!(said.contains("Refused(Failed)"), "{said}");
    assert_eq!(user.names(), [longest]);
}

#[test]
fn guests_cannot_fill_the_host_with_clones() {
    let user = User::new();
    // Makes the run directory.
    assert_eq!(user.names(), [""; 0]);
    let filled: Vec<_> = (0..1024)
        .map(|n| user.run_dir().join(format!("x{n}")))
        .collect();
    for dir in &filled {
        fs::create_dir_all(dir).expect("a directory");
        fs::write(dir.join("info.json"), "{}").expect("a file");
    }
    boot_nano(&user, "p", &["--append", "fork=1"]);
    eventually("the refusal", || {
        let error = &inspect(&user, "p")["guest_fork"]["error"];
        error.as_str().is_some_and(|error| error.contains("1024"))
    });
    // The limit is for guests: the user may still fork it.
    user.ok(&["fork", "p"]);
    for dir in &filled {
        fs::remove_dir_all(dir).expect("to remove it");
    }
}

#[test]
fn a_guest_that_floods_the_signal_port_can_still_be_governed() {
    let user = User::new();
    let more = ["--cpus", "2", "--max-forks", "0", "--append", "mode=flood"];
    boot_nano(&user, "p", &more);
    // Long enough for all of it to have come up.
    eventually("a result and a refusal", || {
        let info = inspect(&user, "p");
        info["exit_status"].is_number() && info["guest_fork"]["error"].is_string()
    });
    user.ok(&["pause", "p"]);
    let info = inspect(&user, "p");
    assert_eq!(
        (&info["state"], &info["forks"]),
        (&"paused".into(), &0.into())
    );
    user.ok(&["resume", "p"]);
    assert_eq!(inspect(&user, "p")["state"], "running");
    assert_eq!(user.names(), ["p"]);
    user.ok(&["rm", "-f", "p"]);
    user.must_be_clean();
}

#[test]
fn a_shell_script_forks_its_machine_and_each_clone_ends_with_its_result() {
    let user = User::new();
    boot(&user, &[]);
    let script = "k=$(hf-fork 3); echo $k > /tmp/k; [ $k = 0 ] || hf-done $k; echo parent";
    let ended = sh(&user, "p", script);
    assert_eq!(
        (ended.status, ended.stdout.as_str(), ended.stderr.as_str()),
        (0, "parent\n", "")
    );
    assert_eq!(written(&user, "p", "/tmp/k"), "0\n");
    for number in 1..=3 {
        let vm = format!("p-{number}");
        result(&user, &vm, number);
        eventually(&format!("the end of {vm}"), || {
            inspect(&user, &vm)["state"] == "stopped"
        });
        assert_eq!(inspect(&user, &vm)["exit_status"], number);
    }
    let info = inspect(&user, "p");
    assert_eq!(
        (&info["state"], &info["forks"]),
        (&"running".into(), &3.into())
    );
    assert_eq!(info["exit_status"], Value::Null);
    assert_eq!(
        user.json(&["tree", "--json"])[0]["clones"][2]["name"],
        "p-3"
    );

    // Forks of forks; and clones that were let be.
    user.ok(&["rm", "p-1", "p-2", "p-3"]);
    let script = "a=$(hf-fork 1); b=$(hf-fork 1); echo $a$b $(hostname) > /tmp/ab";
    sh(&user, "p", script);
    for (vm, numbers) in [("p", "00"), ("p-1", "10"), ("p-2", "01"), ("p-1-1", "11")] {
        // The hostname, too: hf-fork returns in a clone when the clone has its identity.
        let text = written(&user, vm, "/tmp/ab");
        assert_eq!(text, format!("{numbers} {vm}\n"));
    }

    // In the machine that was booted, it is but a result.
    user.ok(&["exec", "p", "--", "hf-done", "42"]);
    assert_eq!(result(&user, "p", 42), "running");
    user.ok(&["exec", "p", "--", "true"]);
}

#[test]
fn hf_fork_survives_that_its_output_was_left_behind_with_the_parent() {
    let user = User::new();
    boot(&user, &[]);
    let script = "hf-fork 2; echo $? > /tmp/status";
    assert_eq!(sh(&user, "p", script).stdout, "0\n");
    for vm in ["p", "p-1", "p-2"] {
        assert_eq!(written(&user, vm, "/tmp/status"), "0\n", "{vm}");
    }
    // A pipe whose reader is gone for certain.
    let script = "(sleep 1; hf-fork 1; echo $? > /tmp/late) | true";
    assert_eq!(sh(&user, "p", script).status, 0);
    for vm in ["p", "p-3"] {
        assert_eq!(written(&user, vm, "/tmp/late"), "0\n", "{vm}");
    }
}

#[test]
fn a_main_program_that_forks_at_once_has_what_it_said_in_the_logs() {
    let user = User::new();
    let script = "echo in time; k=$(hf-fork 2); echo I am $k; hf-done $((k + 10)); \
         echo and go on; sleep 1000";
    boot(&user, &["--", "sh", "-c", script]);
    assert_eq!(result(&user, "p", 10), "running");
    for (vm, status) in [("p-1", 11), ("p-2", 12)] {
        result(&user, vm, status);
        eventually("its end", || inspect(&user, vm)["state"] == "stopped");
        // Not how its programs ended when it was.
        assert_eq!(inspect(&user, vm)["exit_status"], status);
        let said = format!("I am {}\n", status - 10);
        assert_eq!(user.ok(&["logs", vm]), said);
    }
    eventually("more from p", || {
        user.ok(&["logs", "p"]).ends_with("go on\n")
    });
    assert_eq!(user.ok(&["logs", "p"]), "in time\nI am 0\nand go on\n");
}

#[test]
fn forks_are_counted_and_programs_take_turns() {
    let user = User::new();
    boot(&user, &["--max-forks", "4"]);
    let refused = |count: u32| {
        let ended = sh(&user, "p", &format!("hf-fork {count}"));
        assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        ended.stderr
    };
    assert!(refused(5).contains("--max-forks"));
    assert!(refused(2000).contains("too many"));
    for usage in [
        "hf-fork 0",
        "hf-fork",
        "hf-fork x",
        "hf-fork 1 2",
        "hf-done",
    ] {
        let ended = sh(&user, "p", usage);
        assert_eq!(ended.status, 2, "{usage}: {ended:?}");
        assert!(ended.stderr.starts_with("usage: "), "{ended:?}");
    }
    assert_eq!(user.names(), ["p"]);

    // The program that forks second is in the first one's clone as well, and so forks that, too.
    let script = "hf-fork 1 > /tmp/a & hf-fork 1 > /tmp/b & wait; echo > /tmp/both";
    assert_eq!(sh(&user, "p", script).status, 0);
    for vm in ["p", "p-1", "p-2", "p-1-1"] {
        written(&user, vm, "/tmp/both");
    }
    assert_eq!(user.names().len(), 4);
    assert_eq!(inspect(&user, "p")["forks"], 2);
    assert!(refused(3).contains("--max-forks"));
    assert_eq!(sh(&user, "p", "hf-fork 2").stdout, "0\n");
    assert!(refused(1).contains("--max-forks"));
}

#[test]
fn a_python_program_forks_its_machine_with_all_it_has_in_memory() {
    let user = User::new();
    let program = "
import hyperfork
before = hyperfork.identity()
data = list(range(1000))
print('started', flush=True)
k = hyperfork.fork(2)
me = hyperfork.identity()
print(k, me['name'], before['name'], sum(data), flush=True)
if k:
    hyperfork.done(k)
    print('not reached', flush=True)
try:
    hyperfork.fork(1)
except OSError as error:
    print('OSError', flush=True)
hyperfork.done(7)
import time
time.sleep(1000)
";
    let run = [
        "run",
        "-d",
        "-q",
        "--name",
        "p",
        "--image",
        "python",
        "--max-forks",
        "2",
    ];
    user.ok(&[&run[..], &["--", "python3", "-c", program]].concat());
    // Step by step, for each takes a while.
    for step in ["started\n", "499500\n"] {
        eventually(step, || user.ok(&["logs", "p"]).contains(step));
    }
    for (vm, status) in [("p-1", 1), ("p-2", 2)] {
        result(&user, vm, status);
        eventually("its end", || inspect(&user, vm)["state"] == "stopped");
        assert_eq!(inspect(&user, vm)["exit_status"], status);
        let said = user.ok(&["logs", vm]);
        assert_eq!(said, format!("{status} {vm} p 499500\n"));
    }
    assert_eq!(result(&user, "p", 7), "running");
    let said = user.ok(&["logs", "p"]);
    for line in ["0 p p 499500", "OSError"] {
        assert!(said.lines().any(|said| said == line), "{said}");
    }
    assert!(said.contains("--max-forks"), "{said}");
}
