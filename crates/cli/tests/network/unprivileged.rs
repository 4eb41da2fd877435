//! Users who may not make networks, and hosts without any.

use super::support::{Ended, HYPERFORK, User};
use super::{calls_back, echo_datagram, own_address, port, port_of, sh, start_callback};
use serde_json::Value;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;

/// The program, without what making networks takes; `before` is done first, by a shell that
/// has it still.
fn unprivileged(user: &User, before: &str, args: &[&str]) -> Ended {
    let as_root = user.command(args);
    let mut command = Command::new("unshare");
    let script = format!("{before} exec setpriv --bounding-set -net_admin,-sys_admin -- \"$@\"");
    command.args(["--mount", "sh", "-c", &script, "sh", HYPERFORK]);
    command.args(args);
    for (name, value) in as_root.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    Ended::of(command.output().expect("unshare"))
}

#[test]
fn without_privileges_vms_and_clones_connect_through_their_processes_and_publish_ports() {
    /// `EHOSTUNREACH`, `ECONNRESET`.
    const REFUSED: u8 = 113;
    const RESET: u8 = 104;
    let user = User::new();
    let without = |args: &[&str]| unprivileged(&user, "", args);
    let host = own_address().expect("a way out");
    let [open, closed] = [(); 2].map(|()| TcpListener::bind("0.0.0.0:0").unwrap());
    let [open_port, closed_port] =
        [&open, &closed].map(|listener| listener.local_addr().unwrap().port());
    let run = [
        "run", "-d", "--quiet", "--name", "p", "--memory", "256MiB", "--cpus", "1",
    ];
    let error = without(&[&run[..], &["--net", "own"]].concat()).must_have_failed(125);
    assert!(
        error.contains("CAP_NET_ADMIN") && error.contains("--net user"),
        "{error}"
    );
    // Nothing listens at port 1.
    let egress = format!("{host}:{open_port}/tcp,{host}:1");
    let publish = ["-p", "0:7", "-p", "0:8/udp"];
    let ended = without(&[&run[..], &publish, &["--egress", &egress]].concat());
    assert_eq!(
        (ended.status, ended.stdout.as_str()),
        (0, "p\n"),
        "{ended:?}"
    );
    assert!(ended.stderr.contains("--net user"), "{ended:?}");
    start_callback(&user, "p");
    sh(
        &user,
        "p",
        &format!(
            "(nc {host} {open_port} </dev/ptmx >/tmp/got 2>&1; touch /tmp/ended) >/dev/null 2>&1 &"
        ),
    );
    let (mut kept, _) = open.accept().unwrap();
    assert_eq!(without(&["fork", "p", "-n", "2"]).status, 0);
    let forked = without(&["fork", "p", "--strategy", "process-fork"]);
    assert_eq!(forked.status, 0, "{forked:?}");
    for name in ["p", "p-1", "p-2", "p-3"] {
        let info = user.json(&["inspect", name]);
        assert_eq!([&info["net"], &info["ip"]], [&"user".into(), &Value::Null]);
        let calls = |ip, port_there| calls_back(port(&info), ip, port_there);
        assert_eq!(calls(host, open_port), 0);
        assert!(open.accept().is_ok(), "it connected elsewhere");
        assert_eq!(calls(host, closed_port), REFUSED);
        // The VM's process learns too late that nothing listens there, so it cannot refuse.
        assert!([0, RESET].contains(&calls(host, 1)));
        // Other VMs, and its gateway, which is its own process.
        for ip in [Ipv4Addr::new(10, 213, 0, 7), Ipv4Addr::UNSPECIFIED] {
            assert_eq!(calls(ip, open_port), REFUSED);
        }
        let datagrams = (Ipv4Addr::LOCALHOST, port_of(&info, 8));
        for word in [name, &name.repeat(10)] {
            assert_eq!(echo_datagram(datagrams, word), word);
        }
    }
    // A clone has lost its parent's connections, and its programs see their end.
    sh(&user, "p-1", "until [ -e /tmp/ended ]; do sleep 0.1; done");
    kept.write_all(b"still\n").unwrap();
    sh(
        &user,
        "p",
        "until grep -q still /tmp/got; do sleep 0.1; done",
    );
    closed.set_nonblocking(true).unwrap();
    assert!(closed.accept().is_err(), "a guest got through");
}

#[test]
fn who_may_not_have_a_network_at_all_is_told_and_has_vms_all_the_same() {
    let user = User::new();
    let without =
        |args: &[&str]| unprivileged(&user, "mount --bind /dev/null /dev/net/tun &&", args);
    let run = [
        "run", "-d", "--quiet", "--name", "p", "--memory", "256MiB", "--cpus", "1",
    ];
    for asked in [
        &["--net", "own"][..],
        &["--net", "user"],
        &["-p", "0:7"],
        &["--egress", "none"],
    ] {
        let error = without(&[&run[..], asked].concat()).must_have_failed(125);
        assert!(error.contains("--net none"), "{error}");
    }
    let ended = without(&run);
    assert_eq!(
        (ended.status, ended.stdout.as_str()),
        (0, "p\n"),
        "{ended:?}"
    );
    assert!(
        ended.stderr.starts_with("no network: ") && ended.stderr.lines().count() == 1,
        "{ended:?}"
    );
    let info = user.json(&["inspect", "p"]);
    assert_eq!([&info["ip"], &info["net"]], [&Value::Null, &Value::Null]);
    let report: Value =
        serde_json::from_str(&without(&["fork", "p", "--json"]).stdout).expect("a report");
    assert_eq!(report["clones"][0]["ip"], Value::Null);
    assert_eq!(sh(&user, "p-1", "hostname; ls /sys/class/net"), "p-1\nlo\n");
    let findings = without(&["doctor"]).stdout;
    assert!(findings.contains("VMs have none"), "{findings}");
}
