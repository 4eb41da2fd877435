//! The main promise, on real input: a Python program that is forked while it runs.

mod support;

use support::{User, eventually};

#[test]
fn the_demonstration_forks_python_while_it_runs() {
    let user = User::new();
    let ended = user.run(&["demo", "-n", "3"]);
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(!ended.stderr.contains("Warning"), "{}", ended.stderr);
    let shown = ended.stdout;
    for wanted in [
        "numpy.linalg.inv",
        "numpy.roots",
        "numpy.random.normal",
        "then Python + numpy ready",
        "fork to ready",
        "parent's pause",
    ] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
    user.must_be_clean();
}

#[test]
fn a_server_that_counts_goes_on_counting_in_every_clone() {
    let user = User::new();
    let program = "
import os, time
token, n = os.urandom(4).hex(), 0
while True:
    n += 1
    print(token, n, flush=True)
    time.sleep(0.2)
";
    let run = [
        "run", "-d", "-q", "--name", "p", "--image", "python", "--cpus", "2",
    ];
    user.ok(&[&run[..], &["--", "python3", "-c", program]].concat());
    let last = |vm: &str| -> Option<(String, u32)> {
        let log = user.ok(&["logs", vm]);
        let (token, n) = log.lines().last()?.split_once(' ')?;
        Some((token.to_owned(), n.parse().ok()?))
    };
    eventually("the program's start", || last("p").is_some());
    let (token, before) = last("p").unwrap();

    let report = user.json(&["fork", "p", "-n", "4", "--json"]);
    assert_eq!(report["clones"].as_array().unwrap().len(), 4);
    for vm in ["p", "p-1", "p-4"] {
        eventually("more counting", || {
            last(vm).is_some_and(|(_, n)| n > before)
        });
        assert_eq!(last(vm).unwrap().0, token, "{vm} is another process");
    }
    let command = [
        "exec",
        "p-1",
        "--",
        "python3",
        "-c",
        "import socket; print(socket.gethostname())",
    ];
    assert_eq!(user.ok(&command), "p-1\n");
    assert_eq!(user.json(&["ps", "--json"]).as_array().unwrap().len(), 5);
}
