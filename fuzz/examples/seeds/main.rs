//! Writes the first inputs of the fuzz targets into `corpus/`: messages, files and packets from
//! the code that writes real ones, and scripts of drivers that reach deep into a device.
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
use hyperfork_host::fuzzing::{handover_examples, pool_examples};
use hyperfork_host::identity;
use hyperfork_net::user::fuzzing::example as packet;
use hyperfork_state::{BlobRole, seal};
use hyperfork_vmm::blobs::BlobWriter;
use hyperfork_vmm::devices::virtio::block::Block;
use hyperfork_vmm::devices::virtio::block::base::Base;
use hyperfork_vmm::devices::virtio::block::overlays::Overlays;
use hyperfork_vmm::devices::virtio::p9::P9;
use hyperfork_vmm::devices::virtio::rng::Rng;
use hyperfork_vmm::devices::virtio::transport::DeviceState;
use hyperfork_vmm::devices::virtio::vsock::Vsock;
use hyperfork_vmm::devices::virtio::{VirtioDevice, hostile};
use hyperfork_vmm::snapshot::Preload;
use serde::Serialize;
use std::fs::{self, File};

mod guests;
mod images;
#[allow(dead_code)] // It is for tests that do more.
#[path = "../../../crates/vmm/tests/support/mod.rs"]
mod support;

/// A machine with one of each device.
const MACHINE: &[u8] = include_bytes!("../../../crates/vmm/goldens/machine-v1.bin");

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn main() {
    let spec = spec();
    let capture = support::Vm::boot(1, 64, "").capture();
    let touched = vec![0..0x1000, 0x8000..0xa000];
    let preload = Preload::of(capture.ram.clone(), usize::MAX, touched);
    let (preload, _) = preload.expect("descriptors");
    // The target puts the header before it.
    let header = seal(&[]).len();
    keep("state", "nano", &capture.state.encode()[header..]);
    keep("state", "devices", &MACHINE[header..]);
    for (device, choice) in devices().iter().zip(0u8..) {
        let input = (choice, &device.transport, &device.own.bytes);
        keep("restore", &choice.to_string(), &encode(&input));
    }
    for (number, (kind, message)) in handover_examples(&spec, &preload.encode())
        .iter()
        .enumerate()
    {
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
    images::kernels();
    images::qcow2();
    guests::messages();
    guests::scripts();
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

/// Devices at rest, which refer to the blobs of the target `restore`, in its order.
fn devices() -> Vec<DeviceState> {
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
            let mut blobs = BlobWriter::default();
            if device.device_id() == 2 {
                // The image's place is behind the directory's.
                let file = File::open(dir.path()).expect("a directory");
                blobs
                    .put(file, BlobRole::Directory, 0)
                    .expect("descriptors");
            }
            hostile::at_work(device, &mut blobs)
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
        Answer, ExportDisk, Greeting, Hello, Info, Pause, Request, Resume, Sample, Sampled, Stop,
        Subscribe, WaitExit, WaitReady,
    };
    use hyperfork_api::event::{Event, EventKind};
    use hyperfork_api::{Code, Error};
    let prefix = Some(spec.name.clone());
    let fork = Fork {
        prefix,
        ..Fork::new(3)
    };
    let (device, path) = ("vda".to_owned(), "/tmp/disk".into());
    let requests: [Request; 10] = [
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
        WaitExit {}.into(),
        Pause {}.into(),
        Resume {}.into(),
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
    let events = [
        EventKind::Started {
            image: "base".to_owned(),
            parent: Some(spec.name.clone()),
        },
        EventKind::Forked {
            clones: vec![spec.name.clone()],
            failed: 1,
        },
        EventKind::Exited { status: 3 },
        EventKind::Removed,
    ];
    for (number, kind) in events.into_iter().enumerate() {
        let event = Event {
            time_unix_ms: 1,
            vm: spec.name.clone(),
            kind,
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

fn encode(message: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(message).expect("plain data")
}

fn keep(target: &str, name: &str, content: &[u8]) {
    let dir = format!("{ROOT}/corpus/{target}");
    fs::create_dir_all(&dir).expect("a directory");
    fs::write(format!("{dir}/seed-{name}"), content).expect("a file");
}
