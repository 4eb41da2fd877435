//! Writes what the fuzz targets begin with into `corpus/`: messages, files and packets by
//! those who write them in earnest, and scripts of drivers that get somewhere.
//!
//! ```text
//! cargo run --manifest-path fuzz/Cargo.toml --example seeds
//! ```
//!
//! It boots a nano guest to capture it, which takes `/dev/kvm`.

use hyperfork_api::control::{self, Fork};
use hyperfork_api::guest::{Command, Failure, Reply, Request, Stream, WindowSize};
use hyperfork_api::netlink::{Batch, DUMP};
use hyperfork_api::spec::{Disk, DiskFormat, Guest, LinuxGuest, Share};
use hyperfork_api::{Bytes, Network, Secrets, VmName, VmSpec, frame};
use hyperfork_vmm::devices::virtio::block::Block;
use hyperfork_vmm::devices::virtio::block::base::Base;
use hyperfork_vmm::devices::virtio::block::overlays::Overlays;
use hyperfork_vmm::devices::virtio::p9::P9;
use hyperfork_vmm::devices::virtio::rng::Rng;
use hyperfork_vmm::devices::virtio::transport::TransportState;
use hyperfork_vmm::devices::virtio::vsock::Vsock;
use hyperfork_vmm::devices::virtio::{VirtioDevice, hostile};
use hyperfork_host::identity;
use hyperfork_net::user::fuzzing::example as packet;
use hyperfork_host::fuzzing::{handover_examples, pool_examples};
use hyperfork_vmm::snapshot::Preload;
use hyperfork_sys::fds::FdTable;
use imago::StorageOpenOptions;
use imago::file::File as Storage;
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder};
use serde::Serialize;
use std::fs::{self, File, OpenOptions};
use std::path::Path;

#[allow(dead_code)] // It is for tests that do more.
#[path = "../../crates/vmm/tests/support/mod.rs"]
mod support;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn main() {
    let spec = spec();
    let mut capture = support::Vm::boot(1, 64, "").capture();
    let preload = Preload {
        image: capture.state.ram.clone(),
        touched: vec![0..0x1000, 0x8000..0xa000],
    };
    keep("state", "nano", &encode(&capture.state));
    for (number, device) in devices().into_iter().enumerate() {
        keep("restore", &number.to_string(), &encode(&device));
        capture.state.devices.push(device);
    }
    keep("state", "devices", &encode(&capture.state));
    for (number, (kind, message)) in handover_examples(&spec, &preload.encode()).iter().enumerate() {
        keep(
            "handover",
            &number.to_string(),
            &[&[*kind], &message[..]].concat(),
        );
    }
    for (number, (kind, message)) in pool_examples(&spec, &preload.encode()).iter().enumerate() {
        keep(
            "pool",
            &number.to_string(),
            &[&[*kind], &message[..]].concat(),
        );
    }
    agent(&spec);
    control(&spec);
    netlink();
    for text in ["", "x", "a question for a name server"] {
        keep("packet", &text.len().to_string(), &packet(text.as_bytes()));
    }
    for words in [
        "dns",
        "host",
        "public",
        "10.0.0.0/8",
        "1.2.3.4:443/tcp",
        "10.1.0.0/16:8000-8099/udp",
        "512MiB",
        "2g",
        "64 KiB",
        "77",
        "vm-1.a_b",
    ] {
        keep("words", &words.replace('/', "_"), words.as_bytes());
    }
    for (shape, words) in [
        ([0, 1, 2], "root=/dev/vda rw"),
        ([3, 8, 14], ""),
        ([1, 3, 0], "é"),
    ] {
        keep(
            "cmdline",
            &words.len().to_string(),
            &[&shape[..], words.as_bytes()].concat(),
        );
    }
    archive();
    kernels();
    qcow2();
    messages();
    scripts();
}

/// A VM with something of everything.
fn spec() -> VmSpec {
    VmSpec {
        name: VmName::new("vm").expect("a name"),
        cpus: 2,
        memory: Bytes::mib(256),
        guest: Guest::Linux(LinuxGuest {
            kernel: "/boot/vmlinux".into(),
            initrd: Some("/boot/initrd".into()),
            cmdline: "root=/dev/vda".to_owned(),
            disks: vec![Disk {
                path: "/images/base".into(),
                format: Some(DiskFormat::Qcow2),
                read_only: false,
            }],
            shares: vec![Share {
                path: "/srv".into(),
                mount_point: "/mnt".to_owned(),
                read_only: true,
            }],
            network: Some(Network::default()),
            agent: true,
            command: Some(command()),
        }),
        image: "base".to_owned(),
        max_forks: Some(3),
        identical_clones: false,
        ready_timeout_ms: 60_000,
    }
}

fn command() -> Command {
    Command {
        argv: vec!["sh".to_owned(), "-c".to_owned(), "true".to_owned()],
        env: vec![("A".to_owned(), "b".to_owned())],
        cwd: Some("/".to_owned()),
        tty: Some(WindowSize { rows: 24, cols: 80 }),
        stdin: true,
    }
}

/// Devices at rest, which name the descriptors of the target `restore`.
fn devices() -> Vec<TransportState> {
    let dir = tempfile::tempdir().expect("a directory");
    let image = dir.path().join("image");
    fs::write(&image, vec![0x11; 64 << 10]).expect("a file");
    let overlays = Overlays::in_directory(dir.path()).expect("a thread");
    let base = Base::raw(File::open(&image).expect("a file")).expect("an image");
    let share = P9::new("share", dir.path(), false).expect("a directory");
    let (vsock, _handle) = Vsock::new(3).expect("descriptors");
    let devices: [Box<dyn VirtioDevice>; 4] = [
        Box::new(Rng),
        Box::new(vsock),
        Box::new(share),
        Box::new(Block::new(base, false, &overlays)),
    ];
    devices
        .into_iter()
        .map(|device| {
            let mut fds = FdTable::default();
            if device.device_id() == 2 {
                // The image's place is behind the directory's.
                fds.push(File::open(dir.path()).expect("a directory"))
                    .expect("descriptors");
            }
            hostile::at_work(device, &mut fds)
        })
        .collect()
}

fn agent(spec: &VmSpec) {
    let identify = Request::Identify {
        identity: identity::booted(&spec.name).expect("randomness"),
        realtime_ns: 1 << 60,
        shares: vec![("share0".to_owned(), "/mnt".to_owned(), true)],
        secrets: Secrets::default(),
    };
    let path = "/etc".to_owned();
    let requests = [
        identify,
        Request::Exec(command()),
        Request::StartMain(command()),
        Request::FollowMain { from: Some(7) },
        Request::SignalMain(15),
        Request::CopyIn { path: path.clone() },
        Request::CopyOut { path: path.clone() },
        Request::Ping,
        Request::PowerOff,
        Request::CountMain,
    ];
    let file = || Failure::File {
        path: path.clone(),
        reason: "gone".to_owned(),
    };
    let version = "0.1.0".to_owned();
    let replies = [
        Reply::Ok,
        Reply::Identified { version },
        Reply::Streaming,
        Reply::Failed(Failure::NotFound("x".to_owned())),
        Reply::Counted(1 << 40),
    ];
    let streams = [
        Stream::Stdin(b"input".to_vec()),
        Stream::StdinEnd,
        Stream::Resize(WindowSize { rows: 24, cols: 80 }),
        Stream::Stdout(b"output".to_vec()),
        Stream::Data(vec![0; 512]),
        Stream::DataEnd,
        Stream::Failed(file()),
        Stream::Skipped(9),
        Stream::Exited(-1),
    ];
    let one = |kind: u8, name: &str, frames: Vec<u8>| {
        keep("agent", name, &[&[kind], &frames[..]].concat());
        // The target reads a body, too.
        keep(
            "agent",
            &format!("{name}-body"),
            &[&[kind], &frames[4..]].concat(),
        );
    };
    for (number, request) in requests.iter().enumerate() {
        one(
            0,
            &format!("request-{number}"),
            frame::encode(request).expect("a frame"),
        );
    }
    for (number, reply) in replies.iter().enumerate() {
        one(
            1,
            &format!("reply-{number}"),
            frame::encode(reply).expect("a frame"),
        );
    }
    let all = streams
        .iter()
        .map(|stream| frame::encode(stream).expect("a frame"));
    one(2, "streams", all.collect::<Vec<_>>().concat());
}

fn control(spec: &VmSpec) {
    use control::{
        Answer, ExportDisk, Greeting, Hello, Info, Request, Sample, Sampled, Stop, Subscribe,
        WaitReady,
    };
    use hyperfork_api::event::{Event, What};
    use hyperfork_api::{Code, Error};
    let prefix = Some(spec.name.clone());
    let fork = Fork {
        prefix,
        ..Fork::new(3)
    };
    let (device, path) = ("vda".to_owned(), "/tmp/disk".into());
    let requests: [Request; 7] = [
        Info {}.into(),
        WaitReady {}.into(),
        fork.into(),
        ExportDisk { device, path }.into(),
        Sample {
            count: 3,
            interval_us: 1000,
        }
        .into(),
        Stop { grace_ms: 5000 }.into(),
        Subscribe { since_unix_ms: 1 }.into(),
    ];
    for (number, request) in requests.iter().enumerate() {
        json(0, &format!("request-{number}"), request);
    }
    let error = Error::new(Code::NotFound, "no such disk");
    let answers = [
        Answer::Ok(vec![Sampled {
            rip: 1 << 20,
            count: 2,
        }]),
        Answer::Error(Error::because(Code::Host, "cannot write", &error)),
    ];
    for (number, answer) in answers.iter().enumerate() {
        json(1, &format!("answer-{number}"), answer);
    }
    let happenings = [
        What::Started {
            image: "base".to_owned(),
            parent: Some(spec.name.clone()),
        },
        What::Forked {
            clones: vec![spec.name.clone()],
            failed: 1,
        },
        What::Exited { status: 3 },
        What::Removed,
    ];
    for (number, what) in happenings.into_iter().enumerate() {
        let event = Event {
            time_unix_ms: 1,
            vm: spec.name.clone(),
            what,
        };
        json(4, &format!("event-{number}"), &event);
    }
    let hello = Hello::ours();
    json(5, "greeting", &Greeting { hello });
}

fn json(kind: u8, name: &str, message: &impl Serialize) {
    let line = serde_json::to_vec(message).expect("plain data");
    keep("control", name, &[&[kind], &line[..]].concat());
}

/// Questions look as answers do.
fn netlink() {
    let mut batch = Batch::new();
    batch.list_addresses();
    let header = [2, 24, 0, 0, 3, 0, 0, 0];
    batch.message(20, DUMP, &header, |message| {
        message
            .attribute(1, &[10, 0, 0, 1])
            .attribute(2, &[10, 0, 0, 2]);
        message.nested(5, |inner| {
            inner.text(1, "eth0").number(2, 7);
        });
    });
    keep("netlink", "addresses", batch.as_bytes());
    let refusal = [
        &20u32.to_ne_bytes()[..],
        &2u16.to_ne_bytes(),
        &[0; 10],
        &(-1i32).to_ne_bytes(),
    ];
    keep("netlink", "refusal", &refusal.concat());
}

fn archive() {
    let mut archive = tar::Builder::new(Vec::new());
    let mut append = |kind, path: &str, link: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        match link {
            "" => archive.append_data(&mut header, path, content),
            link => archive.append_link(&mut header, path, link),
        }
        .expect("memory");
    };
    append(tar::EntryType::Directory, "dir", "", b"");
    append(tar::EntryType::Regular, "dir/file", "", b"content");
    append(tar::EntryType::Symlink, "dir/link", "../../..", b"");
    append(tar::EntryType::Link, "dir/hard", "dir/file", b"");
    append(tar::EntryType::Regular, &"long/".repeat(30), "", b"");
    let archive = archive.into_inner().expect("memory");
    keep("archive", "everything", &[&[1], &archive[..]].concat());
    let frames = [Stream::Data(archive), Stream::DataEnd];
    let frames = frames.map(|stream| frame::encode(&stream).expect("a frame"));
    keep(
        "archive",
        "frames",
        &[&[129], &frames.concat()[..]].concat(),
    );
}

/// Headers with little behind them.
fn kernels() {
    let mut elf = vec![0; 120];
    let mut put = |at: usize, bytes: &[u8]| elf[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0, 1, 0, 0, 0]);
    put(24, &(1u64 << 20).to_le_bytes()); // e_entry
    put(32, &64u64.to_le_bytes()); // e_phoff
    put(52, &[64, 0, 56, 0, 1, 0]); // e_ehsize, e_phentsize, e_phnum
    put(64, &[1, 0, 0, 0, 5, 0, 0, 0]); // PT_LOAD
    for (at, value) in [
        (72, 0),
        (80, 1 << 20),
        (88, 1 << 20),
        (96, 120u64),
        (104, 4096),
    ] {
        put(at, &value.to_le_bytes());
    }
    keep("kernel", "elf", &[&[0, 0, 0], &elf[..]].concat());
    keep(
        "kernel",
        "elf-initrd",
        &[&[2, 5, 0], &elf[..], b"070701"].concat(),
    );

    let mut image = vec![0; 0x600];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]); // setup_sects
    put(0x1fe, &[0x55, 0xaa]); // boot_flag
    put(0x202, b"HdrS\x0f\x02"); // header, version
    put(0x211, &[1]); // loadflags: loaded high
    put(0x214, &(1u32 << 20).to_le_bytes()); // code32_start
    put(0x236, &[1, 0]); // xloadflags: 64-bit entry
    put(0x258, &(16u64 << 20).to_le_bytes()); // pref_address
    put(0x260, &(1u32 << 20).to_le_bytes()); // init_size
    keep("kernel", "bzimage", &[&[0, 0, 0], &image[..]].concat());
}

/// Images of 512-byte clusters, by the library that reads them.
fn qcow2() {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, backing) in [
        ("plain", None),
        ("on-raw", Some(("raw", "raw"))),
        ("on-qcow2", Some(("qcow2", "qcow2"))),
        ("on-itself", Some(("image", "qcow2"))),
        ("on-secret", Some(("out", "raw"))),
    ] {
        let path = dir.path().join(name);
        write_qcow2(&path, backing);
        let content = fs::read(&path).expect("a file");
        if name == "plain" {
            fs::write(format!("{ROOT}/seeds/plain.qcow2"), &content).expect("a file");
        }
        keep("qcow2", name, &content);
    }
}

fn write_qcow2(path: &Path, backing: Option<(&str, &str)>) {
    type Image = Qcow2<Storage, FormatAccess<Storage>>;
    let mut how = OpenOptions::new();
    let file = how
        .read(true)
        .write(true)
        .create(true)
        .open(path)
        .expect("a file");
    let options = StorageOpenOptions::new().write(true);
    let storage =
        || Storage::from_open_file(file.try_clone().expect("a descriptor"), options.clone());
    let builder = Image::create_builder(storage().expect("a file"));
    let mut builder = builder.size(64 << 10).cluster_size(512);
    if let Some((backing, format)) = backing {
        builder = builder.backing(backing.to_owned(), format.to_owned());
    }
    builder.create().expect("an image");
    let image = Image::builder(storage().expect("a file"))
        .backing(None)
        .write(true);
    let image = FormatAccess::new(
        image
            .open(DenyImplicitOpenGate::default())
            .expect("an image"),
    );
    image.write(&[9; 1024][..], 0).expect("room");
    image.flush().expect("room");
}

/// What a client of a shared directory says: a session, and the same for a driver's buffers.
fn messages() {
    let u16 = |value: u16| value.to_le_bytes().to_vec();
    let u32 = |value: u32| value.to_le_bytes().to_vec();
    let u64 = |value: u64| value.to_le_bytes().to_vec();
    let text = |text: &str| [&(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat();
    let walk = |to: u32, name: &str| [u32(1), u32(to), u16(1), text(name)].concat();
    let sessions: [(&str, Vec<(u8, Vec<u8>)>); 4] = [
        (
            "read",
            vec![
                (110, walk(2, "file")),
                (12, [u32(2), u32(0)].concat()),
                (116, [u32(2), u64(0), u32(64)].concat()),
                (24, [u32(2), u64(0x7ff)].concat()),
                (8, u32(2)),
                (120, u32(2)),
            ],
        ),
        (
            "write",
            vec![
                (110, [u32(1), u32(3), u16(0)].concat()),
                (
                    14,
                    [u32(3), text("new"), u32(2), u32(0o644), u32(0)].concat(),
                ),
                (118, [u32(3), u64(4), u32(4), b"data".to_vec()].concat()),
                (50, [u32(3), u32(0)].concat()),
                (
                    26,
                    [u32(3), u32(8), u32(0), u32(0), u32(0), u64(2), vec![0; 32]].concat(),
                ),
                (122, u32(3)),
            ],
        ),
        (
            "names",
            vec![
                (72, [u32(1), text("made"), u32(0o755), u32(0)].concat()),
                (
                    16,
                    [u32(1), text("link"), text("../secret"), u32(0)].concat(),
                ),
                (110, walk(4, "link")),
                (22, u32(4)),
                (110, walk(5, "file")),
                (70, [u32(1), u32(5), text("hard")].concat()),
                (74, [u32(1), text("file"), u32(1), text("moved")].concat()),
                (20, [u32(5), u32(1), text("again")].concat()),
                (
                    18,
                    [u32(1), text("pipe"), u32(0o10644), u32(0), u32(0), u32(0)].concat(),
                ),
                (76, [u32(1), text("hard"), u32(0)].concat()),
            ],
        ),
        (
            "list",
            vec![
                (110, [u32(1), u32(6), u16(0)].concat()),
                (12, [u32(6), u32(0o200000)].concat()),
                (40, [u32(6), u64(0), u32(512)].concat()),
                (
                    52,
                    [u32(6), vec![0], u32(0), u64(0), u64(0), u32(1), text("me")].concat(),
                ),
                (
                    54,
                    [u32(6), vec![0], u64(0), u64(0), u32(1), text("me")].concat(),
                ),
                (108, u16(1)),
            ],
        ),
    ];
    let start = vec![
        (100, [u32(8192), text("9P2000.L")].concat()),
        (
            104,
            [u32(1), u32(u32::MAX), text("root"), text(""), u32(0)].concat(),
        ),
    ];
    let mut in_buffers = Vec::new();
    for (name, session) in sessions {
        let mut script = vec![0];
        for (kind, body) in start.iter().chain(&session) {
            script.extend([*kind, 64]);
            script.extend((body.len() as u16).to_le_bytes());
            script.extend(body);
            if name == "read" {
                in_buffers.extend((7 + body.len() as u32).to_le_bytes());
                in_buffers.extend([*kind, 1, 0]);
                in_buffers.extend(body);
            }
        }
        keep("p9", name, &script);
    }
    fs::write(format!("{ROOT}/seeds/messages.9p"), &in_buffers).expect("a file");
}

/// Drivers that offer buffers and have them served, by themselves and while they change.
fn scripts() {
    // Offers at slot `first`: two buffers of 16 bytes to read, one of 512 and one of a byte
    // to write.
    let offer = |first: u8| {
        let mut step = vec![0, 0, first, 3, 2];
        for (length, filled) in [(0, true), (0, true), (150, false), (60, false)] {
            step.extend([0, first.wrapping_mul(16), u8::from(first > 3), length]);
            if length == 150 {
                step.push(0);
            }
            step.push(0);
            if filled {
                step.push(0);
            }
        }
        step
    };
    let serve = vec![0, 100];
    let meddled = vec![0, 125, 3, 0, 8, 1, 0, 12, 4, 200, 0, 0, 3];
    let (host, save, reset) = (vec![0, 150], vec![0, 241], vec![0, 236]);
    let script = [
        offer(0),
        serve.clone(),
        offer(4),
        meddled,
        host,
        save,
        reset,
        offer(8),
        serve,
    ];
    let script = script.concat();
    for target in ["rng", "balloon", "block", "console", "net", "vsock"] {
        keep(target, "served", &script);
        for choice in 1..4 {
            keep(
                target,
                &format!("served-{choice}"),
                &[&[choice], &script[..]].concat(),
            );
        }
    }
    keep("p9", "driver", &[&[6], &script[..]].concat());
    keep(
        "ports",
        "fork",
        &[
            0, 0, 60, 0, 4, 1, 1, 0, 7, 225, 150, 60, 4, 4, 220, 230, 0, 150, 60, 0, 8,
        ],
    );
    keep(
        "ports",
        "serial",
        &[
            1, 0, 0, 1, 1, 2, 0, 0, 1, b'x', 150, 0, 5, 1, 250, 150, 130, 0, 8,
        ],
    );
    keep(
        "ports",
        "power",
        &[2, 0, 160, 4, 2, 0, 0x20, 0, 200, 0, 1, 0xfe],
    );
}

fn encode(message: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(message).expect("plain data")
}

fn keep(target: &str, name: &str, content: &[u8]) {
    let dir = format!("{ROOT}/corpus/{target}");
    fs::create_dir_all(&dir).expect("a directory");
    fs::write(format!("{dir}/seed-{name}"), content).expect("a file");
}
