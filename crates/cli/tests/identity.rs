//! What must be different in all clones of a machine is: asked of a Python process that was
//! running when it was forked, in each of its copies.
//!
//! `HYPERFORK_IDENTITY_CLONES` and `HYPERFORK_IDENTITY_ROUNDS` ask for more than the usual 8
//! clones and 2 forks of the same parent.

#![allow(clippy::unwrap_used)] // A test fails by panicking.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};
use support::User;

/// A program that draws once from every generator, and then sends each client its identity and
/// what it draws next.
const SERVER: &str = r#"
import fcntl, os, random, secrets, socket, ssl, struct, uuid
own = random.Random()

def read(path, n=-1):
    with open(path, 'rb') as file:
        return file.read(n)

def address():
    with socket.socket() as any:
        return fcntl.ioctl(any, 0x8915, struct.pack('256s', b'eth0'))[20:24]

def draw():
    return {
        'random': random.getrandbits(256).to_bytes(32, 'big').hex(),
        'random.random': random.random().hex(),
        'random.gauss': random.gauss(0, 1).hex(),
        'random.Random': own.randbytes(32).hex(),
        'secrets': secrets.token_hex(32),
        'openssl': ssl.RAND_bytes(32).hex(),
        'uuid1': str(uuid.uuid1()),
        'uuid4': str(uuid.uuid4()),
        'getrandom': os.getrandom(32).hex(),
        'urandom': read('/dev/urandom', 32).hex(),
        'machine-id': read('/etc/machine-id').decode().strip(),
        'boot-id': read('/proc/sys/kernel/random/boot_id').decode().strip(),
        'token': read('/run/hyperfork/token').decode().strip(),
        'hostname': socket.gethostname(),
        'mac': read('/sys/class/net/eth0/address').decode().strip(),
        'ip': address().hex(),
        'uuid1.node': hex(uuid.uuid1().node),
        'pid': str(os.getpid()),
    }

draw()
server = socket.socket(socket.AF_VSOCK)
server.bind((socket.VMADDR_CID_ANY, 5000))
server.listen()
print('ready', flush=True)
while True:
    connection = server.accept()[0]
    try:
        text = ''.join(f'{what} {value}\n' for what, value in draw().items())
        connection.sendall(text.encode())
    except OSError:
        pass
    connection.close()
"#;

/// How long the server may take to start.
const PATIENCE: Duration = Duration::from_secs(600);

/// The same in the next round: its clones have the names of the last one's.
const REUSED: [&str; 3] = ["hostname", "mac", "ip"];

#[test]
fn clones_draw_other_numbers_and_are_others_in_a_process_that_was_running_at_the_fork() {
    let user = User::new();
    let (clones, rounds) = (
        number("HYPERFORK_IDENTITY_CLONES", 8),
        number("HYPERFORK_IDENTITY_ROUNDS", 2),
    );
    let run = "run -d -q --name p --image python --net own --ready-timeout 10m -- python3 -c";
    let mut run: Vec<_> = run.split(' ').collect();
    run.push(SERVER);
    user.ok(&run);
    // It imports for a long time where the host is busy and the guest's kernel emulated.
    let begun = Instant::now();
    while !user.ok(&["logs", "p"]).contains("ready") {
        assert!(begun.elapsed() < PATIENCE, "the server does not start");
        thread::sleep(Duration::from_millis(500));
    }

    let mut seen = BTreeMap::<String, BTreeSet<String>>::new();
    let mut pid = BTreeSet::new();
    for round in 1..=rounds {
        let begun = Instant::now();
        let count = clones.to_string();
        let report = user.json(&["fork", "p", "-n", &count, "-q", "--json"]);
        let names = report["clones"].as_array().unwrap().iter();
        let names: Vec<_> = names.map(|clone| clone["name"].as_str().unwrap()).collect();
        assert_eq!(names.len(), clones);
        // Of the parent the last: it is no clone, and has drawn before.
        for name in names
            .iter()
            .copied()
            .chain((round == rounds).then_some("p"))
        {
            let mut answer = ask(&user, name);
            assert_eq!(answer["hostname"], name);
            let info = user.json(&["inspect", name]);
            assert_eq!(info["machine_id"], answer["machine-id"].as_str());
            let token = user.ok(&["inspect", "--token", name]);
            assert_eq!(token.trim_end(), answer["token"]);
            pid.insert(answer.remove("pid"));
            for (what, value) in answer {
                let new = seen.entry(what.clone()).or_default().insert(value.clone());
                assert!(
                    new,
                    "{name} in round {round} is not the first with {what} {value}"
                );
            }
        }
        let distinct = seen
            .iter()
            .map(|(what, values)| format!("{what} {}", values.len()));
        let distinct: Vec<_> = distinct.collect();
        println!(
            "round {round}, {:?}: {}",
            begun.elapsed(),
            distinct.join(", ")
        );
        for what in REUSED {
            seen.remove(what);
        }
        user.ok(&[&["rm", "-f"], names.as_slice()].concat());
    }
    assert_eq!(pid.len(), 1, "it is the same process everywhere");
}

/// Asks the server in a VM.
fn ask(user: &User, name: &str) -> BTreeMap<String, String> {
    let socket = user.run_dir().join(name).join("vsock.sock");
    let mut connection = UnixStream::connect(socket).unwrap();
    connection.write_all(b"CONNECT 5000\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let mut lines = answer.lines();
    assert!(lines.next().unwrap().starts_with("OK "), "{answer}");
    let pairs = lines.map(|line| line.split_once(' ').unwrap());
    pairs
        .map(|(what, value)| (what.into(), value.into()))
        .collect()
}

fn number(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |text| text.parse().unwrap())
}
