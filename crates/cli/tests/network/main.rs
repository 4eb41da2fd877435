//! VMs with a network, on Linux with the image `base`. As root: a network takes
//! `CAP_NET_ADMIN`, and [`unprivileged`] is about hosts without it.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;
mod unprivileged;

use serde_json::Value;
use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use support::{Ended, User, eventually};

const PATIENCE: Duration = Duration::from_secs(120);

fn boot(user: &User, more: &[&str]) {
    let mut args = vec!["run", "-d", "--quiet", "--name", "p", "--cpus", "1"];
    args.extend(["--memory", "256MiB"]);
    args.extend(more);
    assert_eq!(user.ok(&args), "p\n");
}

fn sh(user: &User, vm: &str, script: &str) -> String {
    user.ok(&["exec", vm, "--", "sh", "-c", script])
}

fn address(info: &Value) -> Ipv4Addr {
    info["ip"].as_str().expect("an address").parse().unwrap()
}

/// The host's end of a VM's link (see `Block` in the monitor).
fn hosts_end(ip: Ipv4Addr) -> Ipv4Addr {
    (u32::from(ip) - 2).into()
}

fn interface(ip: Ipv4Addr) -> String {
    format!("/sys/class/net/hf{:08x}", u32::from(ip) - 3)
}

/// What the echo server in a guest answers to a word.
fn echo(to: (Ipv4Addr, u16), word: &str) -> String {
    let mut stream = TcpStream::connect(to).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(word.as_bytes()).unwrap();
    let mut answer = vec![0; word.len()];
    stream.read_exact(&mut answer).expect("an answer");
    String::from_utf8(answer).unwrap()
}

/// The same of an echo of datagrams. Those that come before it listens are lost.
fn echo_datagram(to: (Ipv4Addr, u16), word: &str) -> String {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let mut answer = [0; 100];
    let begun = Instant::now();
    loop {
        socket.send_to(word.as_bytes(), to).unwrap();
        match socket.recv_from(&mut answer) {
            Ok((len, from)) => {
                assert_eq!(from, SocketAddr::from(to));
                return String::from_utf8_lossy(&answer[..len]).into_owned();
            }
            Err(_) => assert!(begun.elapsed() < PATIENCE, "no answer from {to:?}"),
        }
    }
}

/// The published port of guest port 7 in a report or a VM's description.
fn port(info: &Value) -> u16 {
    port_of(info, 7)
}

fn port_of(info: &Value, guest: u16) -> u16 {
    let ports = info["ports"].as_array().expect("ports").iter();
    let mut ports = ports.filter(|port| port["guest"] == guest);
    let host = ports.next().expect("a port")["host"].as_u64().unwrap();
    assert_eq!(ports.next(), None);
    host.try_into().unwrap()
}

/// An address of this host that is neither of its loopback interface nor of a VM's link; the
/// emulated machine has none.
fn own_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").ok()?;
    match socket.local_addr().unwrap() {
        SocketAddr::V4(address) => Some(*address.ip()),
        SocketAddr::V6(address) => panic!("{address}"),
    }
}

#[test]
fn clones_have_addresses_of_their_own_and_inherit_no_connection() {
    let user = User::new();
    boot(&user, &["-p", "0.0.0.0:0:7"]);
    let parent = user.json(&["inspect", "p"]);
    let ip = address(&parent);
    let listener = TcpListener::bind((hosts_end(ip), 0)).unwrap();
    let outside = listener.local_addr().unwrap();
    sh(
        &user,
        "p",
        &format!(
            "nc -ll -p 7 -e cat >/dev/null 2>&1 &
             (nc {} {} </dev/ptmx >/tmp/got 2>&1; touch /tmp/ended) >/dev/null 2>&1 &
             until netstat -tln 2>/dev/null | grep -q :7; do sleep 0.1; done",
            outside.ip(),
            outside.port()
        ),
    );
    let (mut open, from) = listener.accept().unwrap();
    assert_eq!(from.ip(), ip);
    assert_eq!(
        echo((Ipv4Addr::LOCALHOST, port(&parent)), "parent"),
        "parent"
    );

    let report = user.json(&["fork", "p", "-n", "3", "--json"]);
    let clones = report["clones"].as_array().unwrap();
    let addresses: HashSet<_> = clones.iter().map(address).chain([ip]).collect();
    assert_eq!(addresses.len(), 4, "{report}");
    let ports: HashSet<_> = clones.iter().map(port).chain([port(&parent)]).collect();
    assert_eq!(ports.len(), 4, "{report}");
    for clone in clones {
        let (name, own) = (clone["name"].as_str().unwrap(), address(clone));
        let inspected = user.json(&["inspect", name]);
        assert_eq!(
            [&inspected["ip"], &inspected["ports"]],
            [&clone["ip"], &clone["ports"]]
        );
        // The server that was running at the fork, from outside and by its address.
        for to in [(Ipv4Addr::LOCALHOST, port(clone)), (own, 7)] {
            assert_eq!(echo(to, name), name);
        }
        let seen = sh(
            &user,
            name,
            "hostname; ip addr show dev eth0; ip route; until [ -e /tmp/ended ]; do sleep 0.1; done",
        );
        assert!(
            seen.contains(&format!("inet {own}/32")) && !seen.contains(&ip.to_string()),
            "{seen}"
        );
        assert!(seen.starts_with(&format!("{name}\n")), "{seen}");
        let [a, b, c, d] = own.octets();
        assert!(
            seen.contains(&format!("02:48:{a:02x}:{b:02x}:{c:02x}:{d:02x}")),
            "{seen}"
        );
        assert!(seen.contains("default via "), "{seen}");
    }
    // The parent's connection is as it was.
    open.write_all(b"still\n").unwrap();
    let got = "until grep -q still /tmp/got; do sleep 0.1; done; ls /tmp/ended 2>&1";
    assert!(
        user.run(&["exec", "p", "--", "sh", "-c", got])
            .stdout
            .contains("No such")
    );
    // A guest cannot connect to another VM.
    let refused = user.run(&["exec", "p-1", "--", "nc", "-w", "60", &ip.to_string(), "7"]);
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(refused.stderr.contains("No route to host"), "{refused:?}");
    // Nor to the port that is published for it, at any address of the host.
    let own_end = hosts_end(address(&clones[0]));
    assert_eq!(echo((own_end, port(&parent)), "host"), "host");
    for host in [own_end, hosts_end(ip)].into_iter().chain(own_address()) {
        let published = port(&parent);
        let script = format!("(echo hello; sleep 3) | nc -w 60 {host} {published}");
        let ended = user.run(&["exec", "p-1", "--", "sh", "-c", &script]);
        assert!(!ended.stdout.contains("hello"), "{host}: {ended:?}");
    }

    // However a VM ends, its network goes with it.
    let victim = user.json(&["inspect", "p-1"])["pid"].to_string();
    let gone = interface(address(&clones[0]));
    assert!(Path::new(&gone).exists());
    assert!(
        Command::new("kill")
            .args(["-9", &victim])
            .status()
            .unwrap()
            .success()
    );
    eventually("the end of its interface", || !Path::new(&gone).exists());
}

#[test]
fn clones_of_mode_same_keep_their_address_and_are_told_apart_outside() {
    let user = User::new();
    boot(&user, &["--net", "same", "-p", "0:7"]);
    let parent = user.json(&["inspect", "p"]);
    assert_eq!(parent["net"], "same");
    let script = "nc -ll -p 7 -e cat >/dev/null 2>&1 &
        until netstat -tln 2>/dev/null | grep -q :7; do sleep 0.1; done";
    sh(&user, "p", script);
    let addresses = "ip addr show dev eth0; ip route";
    let before = sh(&user, "p", addresses);
    let report = user.json(&["fork", "p", "-n", "2", "--json"]);
    let clones = report["clones"].as_array().unwrap();
    assert_ne!(clones[0]["ip"], clones[1]["ip"]);
    for clone in clones {
        let name = clone["name"].as_str().unwrap();
        assert_eq!(sh(&user, name, addresses), before);
        for to in [(Ipv4Addr::LOCALHOST, port(clone)), (address(clone), 7)] {
            assert_eq!(echo(to, name), name);
        }
    }
}

/// Compiles the guest's program and has it run in a VM.
fn start_callback(user: &User, vm: &str) {
    let source = support::package().join("tests/network_guest/callback.c");
    let program = user.path("callback");
    let compiled = Command::new("cc")
        .args(["-static", "-O2", "-s", "-Wall", "-Wextra", "-o"])
        .args([&program, &source])
        .status();
    assert!(compiled.expect("cc").success());
    let to = format!("{vm}:/usr/bin/callback");
    user.ok(&["cp", program.to_str().unwrap(), &to]);
    user.ok(&["exec", vm, "--", "callback"]);
}

/// What comes of a guest's connecting to an address (0.0.0.0: its caller's) and port, asked
/// of its program at this port of the host: an error's number, 0 for none.
fn calls_back(at: u16, ip: Ipv4Addr, port: u16) -> u8 {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, at)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let asked = [&ip.octets()[..], &port.to_be_bytes()].concat();
    stream.write_all(&asked).unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).expect("an answer");
    answer[0]
}

#[test]
fn a_vm_and_its_clones_connect_to_those_alone_whom_they_may_and_are_reached_all_the_same() {
    /// `EHOSTUNREACH`.
    const REFUSED: u8 = 113;
    let user = User::new();
    // At all of this host's addresses, of which a guest may try two ports and use one.
    let [open, closed] = [(); 2].map(|()| TcpListener::bind("0.0.0.0:0").unwrap());
    let [open_port, closed_port] =
        [&open, &closed].map(|listener| listener.local_addr().unwrap().port());
    let egress = format!("10.213.0.0/16:{open_port}/tcp,192.0.2.1");
    boot(
        &user,
        &["--egress", &egress, "-p", "0:7", "-p", "127.0.0.1:0:8/udp"],
    );
    start_callback(&user, "p");
    user.ok(&["fork", "p", "-n", "2"]);
    for name in ["p", "p-1", "p-2"] {
        let info = user.json(&["inspect", name]);
        let shown = [format!("10.213.0.0/16:{open_port}/tcp"), "192.0.2.1".into()];
        assert_eq!(info["egress"], Value::from(&shown[..]));
        let calls = |port_there| calls_back(port(&info), Ipv4Addr::UNSPECIFIED, port_there);
        assert_eq!([calls(open_port), calls(closed_port)], [0, REFUSED]);
        let ports = &info["ports"];
        assert_eq!(
            [&ports[1]["address"], &ports[1]["protocol"]],
            ["127.0.0.1", "udp"]
        );
        let datagrams = (Ipv4Addr::LOCALHOST, port_of(&info, 8));
        assert_eq!(echo_datagram(datagrams, name), name);
    }
    closed.set_nonblocking(true).unwrap();
    assert!(closed.accept().is_err(), "a guest got through");
}

#[test]
fn a_port_in_use_is_told_and_nothing_is_left() {
    let user = User::new();
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let publish = format!("{port}:80");
    let error = user.fails(
        125,
        &["run", "-d", "--quiet", "--name", "p", "-p", &publish],
    );
    assert!(
        error.contains(&format!("tcp port {port} of 127.0.0.1")),
        "{error}"
    );
    // Nor can a VM have what is not this host's.
    let elsewhere = ["-p", "192.0.2.1:0:80/udp"];
    let error = user.fails(
        125,
        &[&["run", "-d", "--quiet", "--name", "p"][..], &elsewhere].concat(),
    );
    assert!(error.contains("udp port 0 of 192.0.2.1"), "{error}");
    user.must_be_clean();
}

#[test]
fn a_published_port_is_open_to_this_host_alone_unless_an_address_says_otherwise() {
    let user = User::new();
    boot(&user, &["-p", "0:7", "-p", "0.0.0.0:0:9"]);
    let parent = user.json(&["inspect", "p"]);
    let addresses = parent["ports"].as_array().unwrap();
    let addresses: Vec<_> = addresses.iter().map(|port| &port["address"]).collect();
    assert_eq!(addresses, ["127.0.0.1", "0.0.0.0"]);
    let connects = |ip, port| TcpStream::connect((ip, port)).is_ok();
    let [alone, everywhere] = [7, 9].map(|guest| port_of(&parent, guest));
    let outside = own_address().expect("a way out");
    assert!(connects(Ipv4Addr::LOCALHOST, alone) && connects(Ipv4Addr::LOCALHOST, everywhere));
    assert!(!connects(outside, alone) && connects(outside, everywhere));
}

#[test]
fn addresses_that_run_out_are_told_and_nothing_is_left_of_processes_that_were_killed() {
    let user = User::new();
    // Three VMs, not those of another run of this test.
    let pool = Ipv4Addr::from(0xc612_0000 | (std::process::id() & 0xfff) << 4);
    let in_pool = |args: &[&str]| {
        let mut command = user.command(args);
        command.env("HYPERFORK_NET_POOL", format!("{pool}/28"));
        Ended::of(command.output().expect("hyperfork"))
    };
    let interfaces = || {
        let names = fs::read_dir("/sys/class/net")
            .expect("interfaces")
            .flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let ours = format!("hf{:07x}", u32::from(pool) >> 4);
        names.filter(|name| name.starts_with(&ours)).count()
    };
    let run = |name| {
        let run = ["run", "-d", "--quiet", "--cpus", "1", "--memory", "256MiB"];
        in_pool(&[&run[..], &["-p", "0:7", "--name", name]].concat())
    };
    assert_eq!(run("p").status, 0);
    // Two more shells wait for its clones.
    eventually("all addresses being leased", || interfaces() == 3);
    let error = run("q").must_have_failed(125);
    assert!(
        error.contains("all 3 blocks of addresses are in use")
            && error.contains("HYPERFORK_NET_POOL"),
        "{error}"
    );
    let error = in_pool(&["fork", "p", "-n", "3"]).must_have_failed(1);
    assert!(error.contains("all 3 blocks"), "{error}");
    assert_eq!(user.names(), ["p"]);
    assert_eq!(user.json(&["inspect", "p"])["state"], "running");

    // While shells are being built again.
    for pid in user.all_processes() {
        let killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
        killed.expect("kill");
    }
    eventually("the end of all interfaces", || interfaces() == 0);
    assert_eq!(run("q").status, 0);
    assert_eq!(sh(&user, "q", "hostname"), "q\n");
}
