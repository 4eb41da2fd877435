//! Running, forking and ending VMs, on the embedded guest.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use support::{NANO, User, eventually, finish, signal};

#[test]
fn a_vm_outlives_its_starter_is_listed_and_gone_after_removal() {
    let user = User::new();
    user.nano("p");
    let listed = user.json(&["ps", "--json"]);
    assert_eq!(listed[0]["name"], "p");
    assert_eq!(listed[0]["state"], "running");
    assert_eq!(listed[0]["image"], "nano");
    assert_eq!(listed[0]["memory_mib"], 64);
    assert!(listed[0]["private_kib"].as_u64().unwrap() >= 4 << 10);
    assert_eq!(user.json(&["inspect", "p"])["name"], "p");
    user.must_have_processes(1);

    assert_eq!(user.ok(&["pause", "p"]), "p\n");
    assert_eq!(user.json(&["inspect", "p"])["state"], "paused");
    assert!(user.fails(1, &["pause", "p"]).contains("paused already"));
    assert_eq!(user.ok(&["resume", "p"]), "p\n");
    assert_eq!(user.json(&["inspect", "p"])["state"], "running");
    assert!(user.fails(1, &["resume", "p"]).contains("not paused"));

    assert_eq!(user.ok(&["stop", "p"]), "p\n");
    assert_eq!(user.json(&["ps", "--json"]), serde_json::json!([]));
    assert_eq!(user.json(&["ps", "-a", "--json"])[0]["state"], "stopped");
    assert_eq!(user.json(&["inspect", "p"])["pid"], serde_json::Value::Null);
    user.must_have_processes(0);

    assert_eq!(user.ok(&["rm", "p"]), "p\n");
    user.must_be_clean();
}

#[test]
fn a_fork_reports_every_clone_and_each_proves_who_it_is() {
    let user = User::new();
    user.nano("p");
    let report = user.json(&["fork", "p", "-n", "3", "--json"]);
    assert_eq!(report["parent"], "p");
    assert_eq!(report["strategy"], "image");
    assert!(report["pause_us"].as_u64().unwrap() > 0);
    let clones = report["clones"].as_array().unwrap();
    let work = hyperfork_nano::Options::parse("touch_mib=4")
        .unwrap()
        .work();
    for (at, clone) in clones.iter().enumerate() {
        let name = clone["name"].as_str().unwrap();
        assert_eq!(name, format!("p-{}", at + 1));
        let phases = clone["phases_us"].as_object().unwrap();
        let names: Vec<_> = phases.keys().map(String::as_str).collect();
        assert_eq!(names.len(), 10);
        for phase in [
            "pause",
            "capture",
            "image",
            "hand_over",
            "shell",
            "memory",
            "state",
            "enter",
            "first_run",
            "ready",
        ] {
            assert!(names.contains(&phase), "{names:?}");
        }
        assert!(clone["total_us"].as_u64().unwrap() <= clone["ready_us"].as_u64().unwrap());
        assert_eq!(clone["ip"], serde_json::Value::Null);
        assert_eq!(clone["ports"], serde_json::json!([]));

        let info = user.json(&["inspect", name]);
        assert_eq!(info["parent"], "p");
        assert_eq!(info["index"], at as u64 + 1);
        assert_eq!(info["exit_status"], work.answer(at as u32 + 1));
    }
    assert_eq!(clones.len(), 3);
    assert_eq!(user.json(&["inspect", "p"])["forks"], 3);
    user.must_have_processes(4);
}

#[test]
fn clones_are_named_with_the_first_free_numbers_or_as_asked() {
    let user = User::new();
    user.nano("p");
    user.ok(&["fork", "p", "-n", "3"]);
    user.ok(&["rm", "-f", "p-2"]);
    let names = |report: serde_json::Value| -> Vec<String> {
        let clones = report["clones"].as_array().unwrap().iter();
        clones
            .map(|clone| clone["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        names(user.json(&["fork", "p", "-n", "2", "--json"])),
        ["p-2", "p-4"]
    );
    let report = user.json(&["fork", "p", "-n", "2", "--name-prefix", "web", "--json"]);
    assert_eq!(names(report), ["web-1", "web-2"]);
}

#[test]
fn a_tree_shows_grandchildren_and_parents_that_are_gone() {
    let user = User::new();
    user.nano("p");
    user.ok(&["fork", "p", "-n", "2"]);
    user.ok(&["fork", "p-1"]);
    let tree = user.json(&["tree", "--json"]);
    assert_eq!(tree[0]["name"], "p");
    assert_eq!(tree[0]["clones"][0]["clones"][0]["name"], "p-1-1");
    assert_eq!(tree[0]["clones"][1]["name"], "p-2");
    assert!(tree[0]["clones"][0]["shared_mib"].as_f64().unwrap() >= 4.0);
    assert!(tree[0]["clones"][0]["private_mib"].is_number());
    assert!(tree[0]["clones"][0]["swapped_mib"].is_number());
    let drawn = user.ok(&["tree"]);
    assert!(
        drawn.contains("├─ p-1") && drawn.contains("│  └─ p-1-1"),
        "{drawn}"
    );

    user.ok(&["stop", "p-1"]);
    user.ok(&["rm", "-f", "p"]);
    let tree = user.json(&["tree", "--json"]);
    assert_eq!(
        (&tree[0]["name"], &tree[0]["state"]),
        (&"p".into(), &serde_json::Value::Null)
    );
    assert_eq!(tree[0]["clones"][0]["state"], "stopped");
    // Clones live on without their ancestors.
    assert_eq!(tree[0]["clones"][0]["clones"][0]["state"], "running");
    user.ok(&["fork", "p-1-1"]);
}

#[test]
fn a_vm_that_was_killed_is_listed_as_failed_and_can_be_removed() {
    let user = User::new();
    user.nano("p");
    user.ok(&["fork", "p"]);
    let pid = user.json(&["inspect", "p"])["pid"].to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-9", &pid])
            .status()
            .unwrap()
            .success()
    );
    eventually("the end of p", || {
        user.json(&["inspect", "p"])["state"] == "failed"
    });
    assert!(
        user.json(&["inspect", "p"])["error"]
            .as_str()
            .unwrap()
            .contains("killed")
    );
    assert_eq!(user.json(&["inspect", "p-1"])["state"], "running");
    user.ok(&["rm", "p"]);
    user.ok(&["rm", "-f", "p-1"]);
    user.must_be_clean();
}

#[test]
fn what_a_guest_prints_is_in_its_log() {
    let user = User::new();
    user.nano("p");
    let follower = user.start(&["logs", "-f", "p"]);
    assert!(user.ok(&["logs", "p"]).contains("nano:"));
    assert_eq!(
        user.ok(&["logs", "p"]),
        user.ok(&["logs", "--console", "p"])
    );
    user.ok(&["stop", "p"]);
    let followed = finish(follower);
    assert_eq!(followed.status, 0);
    assert_eq!(followed.stdout, user.ok(&["logs", "p"]));
}

#[test]
fn a_vm_without_a_name_gets_two_words() {
    let user = User::new();
    let mut args = vec!["run", "-d"];
    args.extend(NANO);
    let name = user.ok(&args).trim().to_owned();
    let words: Vec<_> = name.split('-').collect();
    assert_eq!(words.len(), 2, "{name}");
    assert_eq!(user.names(), [name]);
}

#[test]
fn ctrl_c_stops_a_vm_in_the_foreground() {
    for (name, status) in [("INT", 130), ("TERM", 143)] {
        let user = User::new();
        let mut args = vec!["run", "--name", "p"];
        args.extend(NANO);
        let mut child = user.start(&args);
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "p\n");
        assert_eq!(user.json(&["inspect", "p"])["state"], "running");
        signal(&child, name);
        assert_eq!(finish(child).status, status);
        assert_eq!(user.json(&["inspect", "p"])["state"], "stopped");
        user.must_have_processes(0);
    }
}

#[test]
fn ctrl_c_with_rm_leaves_nothing() {
    let user = User::new();
    let mut args = vec!["run", "--rm"];
    args.extend(NANO);
    let mut child = user.start(&args);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    signal(&child, "INT");
    let ended = finish(child);
    assert_eq!(ended.status, 130, "{ended:?}");
    user.must_be_clean();
}

#[test]
fn ctrl_c_during_boot_leaves_nothing() {
    let user = User::new();
    // So much to fill takes a while.
    let args = [
        "run",
        "-d",
        "--name",
        "p",
        "--image",
        "nano",
        "--memory",
        "2GiB",
        "--append",
        "touch_mib=1800",
    ];
    let child = user.start(&args);
    eventually("the VM's directory", || user.run_dir().join("p").exists());
    signal(&child, "INT");
    let ended = finish(child);
    assert_eq!(ended.status, 130, "{ended:?}");
    assert!(ended.stderr.contains("interrupted"), "{ended:?}");
    user.must_be_clean();
}

#[test]
fn a_vm_stopped_by_another_command_ends_the_foreground() {
    let user = User::new();
    let mut args = vec!["run", "--name", "p"];
    args.extend(NANO);
    let mut child = user.start(&args);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    user.ok(&["rm", "-f", "p"]);
    let ended = finish(child);
    assert_eq!(ended.status, 0, "{ended:?}");
}

#[test]
fn the_demonstration_shows_right_answers_and_leaves_nothing() {
    let user = User::new();
    let shown = user.ok(&["demo", "--guest", "nano", "-n", "4"]);
    for wanted in [
        "demo-4",
        "as it must be",
        "fork to running",
        "parent's pause",
        "per clone",
    ] {
        assert!(shown.contains(wanted), "{shown}");
    }
    user.must_be_clean();
}

#[test]
fn an_interrupted_demonstration_leaves_nothing() {
    let user = User::new();
    let child = user.start(&["demo", "--guest", "nano", "-n", "32"]);
    eventually("a VM", || user.run_dir().join("demo").exists());
    signal(&child, "INT");
    let ended = finish(child);
    assert_eq!(ended.status, 130, "{ended:?}");
    user.must_be_clean();
}

#[test]
fn the_run_directory_is_the_users_alone() {
    use std::os::unix::fs::PermissionsExt;
    let user = User::new();
    user.nano("p");
    let mode = fs::metadata(user.run_dir()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_clone_tells_the_time_to_ready_that_its_fork_reported_however_long_its_shell_waited() {
    let user = User::new();
    user.nano("p");
    user.ok(&["fork", "p"]);
    // Shells wait in stock by now.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let report = user.json(&["fork", "p", "-n", "2", "--json"]);
    for clone in report["clones"].as_array().unwrap() {
        let told = user.json(&["inspect", clone["name"].as_str().unwrap()]);
        assert_eq!(told["ready_us"], clone["ready_us"], "{told}");
    }
}
