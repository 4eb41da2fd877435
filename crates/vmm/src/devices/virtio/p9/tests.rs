//! Tests of the device with a client that speaks 9P2000.L as Linux does, on real
//! directories.

mod hostile;
mod names;

use super::wire::{Decoder, Encoder, HEADER_LEN, MAX_MESSAGE, RLERROR, request};
use super::{P9, P9State};
use crate::blobs::BlobWriter;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::testing::Driver;
use rustix::io::Errno;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use tempfile::TempDir;

const ROOT: u32 = 1;
const FID: u32 = 2;
const OTHER: u32 = 3;

const RDONLY: u32 = 0;
const WRONLY: u32 = 1;
const RDWR: u32 = 2;
const CREAT_EXCL: u32 = 0o300;
const TRUNC: u32 = 0o1000;

struct Client {
    driver: Driver,
    dir: std::sync::Arc<TempDir>,
}

type Answer = Result<Vec<u8>, Errno>;

/// What a request's body is made of.
enum Part<'a> {
    W(u16),
    D(u32),
    Q(u64),
    S(&'a str),
    Data(&'a [u8]),
}
use Part::*;

fn frame(kind: u8, parts: &[Part<'_>]) -> Vec<u8> {
    let mut out = Encoder::default();
    out.begin();
    for part in parts {
        match part {
            W(v) => out.u16(*v),
            D(v) => out.u32(*v),
            Q(v) => out.u64(*v),
            S(v) => out.string(v.as_bytes()),
            Data(v) => {
                out.u32(v.len() as u32);
                v.iter().for_each(|b| out.u8(*b));
            }
        }
    }
    out.finish(kind, 7);
    out.as_bytes().to_vec()
}

impl Client {
    /// Mounts an empty directory.
    fn mount() -> Self {
        Self::mount_as(false)
    }

    fn mount_as(read_only: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("shared")).unwrap();
        let device = P9::new("share", &dir.path().join("shared"), read_only).unwrap();
        let mut client = Self {
            driver: Driver::start(device),
            dir: dir.into(),
        };
        let version = client
            .ask(request::VERSION, &[D(MAX_MESSAGE), S("9P2000.L")])
            .unwrap();
        assert_eq!(
            version,
            frame(0, &[D(MAX_MESSAGE), S("9P2000.L")])[HEADER_LEN..]
        );
        let attach = [D(ROOT), D(u32::MAX), S("root"), S(""), D(0)];
        assert_eq!(client.ask(request::ATTACH, &attach).unwrap().len(), 13);
        client
    }

    fn host(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join("shared").join(path)
    }

    fn ask(&mut self, kind: u8, parts: &[Part<'_>]) -> Answer {
        self.ask_raw(&frame(kind, parts), 8192)
    }

    /// Sends a whole message, header and body apart as Linux's zero-copy does;
    /// returns the answer's body.
    fn ask_raw(&mut self, message: &[u8], space: u32) -> Answer {
        let (header, body) = message.split_at(HEADER_LEN);
        let (len, buffers) = self.driver.request(0, &[header, body], &[11, space - 11]);
        let mut answer = buffers.concat();
        answer.truncate(len as usize);
        let size = u32::from_le_bytes(*answer.first_chunk().unwrap());
        assert_eq!((size, &answer[5..7]), (len, &7u16.to_le_bytes()[..]));
        let body = answer.split_off(HEADER_LEN);
        if answer[4] == RLERROR {
            let code = u32::from_le_bytes(body.try_into().unwrap());
            return Err(Errno::from_raw_os_error(code as i32));
        }
        assert_eq!(answer[4], message[4] + 1);
        Ok(body)
    }

    fn walk(&mut self, from: u32, to: u32, names: &[&str]) -> Answer {
        let mut parts = vec![D(from), D(to), W(names.len() as u16)];
        parts.extend(names.iter().map(|name| S(name)));
        self.ask(request::WALK, &parts)
    }

    /// Walks from the root to a new fid all the way.
    fn find(&mut self, fid: u32, names: &[&str]) {
        let found = self.walk(ROOT, fid, names).unwrap();
        assert_eq!(found.len(), 2 + 13 * names.len());
    }

    fn open(&mut self, fid: u32, flags: u32) -> Answer {
        self.ask(request::LOPEN, &[D(fid), D(flags)])
    }

    fn create(&mut self, fid: u32, name: &str, mode: u32) -> Answer {
        self.ask(
            request::LCREATE,
            &[D(fid), S(name), D(RDWR | CREAT_EXCL), D(mode), D(0)],
        )
    }

    fn read(&mut self, fid: u32, offset: u64, count: u32) -> Answer {
        let mut body = self.ask(request::READ, &[D(fid), Q(offset), D(count)])?;
        let data = body.split_off(4);
        assert_eq!(
            u32::from_le_bytes(body.try_into().unwrap()) as usize,
            data.len()
        );
        Ok(data)
    }

    fn write(&mut self, fid: u32, offset: u64, data: &[u8]) -> Answer {
        self.ask(request::WRITE, &[D(fid), Q(offset), Data(data)])
    }

    fn clunk(&mut self, fid: u32) -> Answer {
        self.ask(request::CLUNK, &[D(fid)])
    }

    fn set(&mut self, fid: u32, valid: u32, mode: u32, size: u64) -> Answer {
        let parts = [
            D(fid),
            D(valid),
            D(mode),
            D(0),
            D(0),
            Q(size),
            Q(1),
            Q(2),
            Q(3),
            Q(4),
        ];
        self.ask(request::SETATTR, &parts)
    }

    /// All names of an open directory, `count` bytes at a time.
    fn list(&mut self, fid: u32, count: u32) -> Vec<String> {
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let body = self
                .ask(request::READDIR, &[D(fid), Q(offset), D(count)])
                .unwrap();
            if body.len() == 4 {
                names.sort();
                return names;
            }
            let mut d = Decoder(&body[4..]);
            while !d.0.is_empty() {
                d.bytes(13).unwrap();
                offset = d.u64().unwrap();
                d.u8().unwrap();
                names.push(String::from_utf8(d.string().unwrap().to_vec()).unwrap());
            }
        }
    }

    fn fork(&mut self) -> Self {
        let mut blobs = BlobWriter::default();
        let state = self.driver.lock().save(&mut blobs).unwrap();
        let p9: P9State = state.own.decode().unwrap();
        let device = P9::restore(&p9, blobs.reader()).unwrap();
        Self {
            driver: self.driver.clone_into(device, &state),
            dir: self.dir.clone(),
        }
    }
}

#[test]
fn a_file_is_created_written_read_and_found_on_the_host() {
    let mut client = Client::mount();
    client.find(FID, &[]);
    client.create(FID, "notes", 0o644).unwrap();
    assert_eq!(client.write(FID, 0, b"hello").unwrap(), 5u32.to_le_bytes());
    assert_eq!(client.read(FID, 1, 100).unwrap(), b"ello");
    assert_eq!(client.read(FID, 100, 100).unwrap(), b"");
    client.ask(request::FSYNC, &[D(FID), D(0)]).unwrap();
    client.clunk(FID).unwrap();
    assert_eq!(fs::read(client.host("notes")).unwrap(), b"hello");
    assert_eq!(client.read(FID, 0, 1), Err(Errno::BADF));
}

#[test]
fn attributes_are_those_of_the_host() {
    let mut client = Client::mount();
    fs::write(client.host("file"), b"12345").unwrap();
    client.find(FID, &["file"]);
    let body = client.ask(request::GETATTR, &[D(FID), Q(0x7ff)]).unwrap();
    let mut d = Decoder(&body);
    assert_eq!(d.u64().unwrap(), 0x7ff);
    d.bytes(13).unwrap();
    let meta = fs::metadata(client.host("file")).unwrap();
    assert_eq!(d.u32().unwrap(), meta.mode());
    assert_eq!(
        (d.u32().unwrap(), d.u32().unwrap()),
        (meta.uid(), meta.gid())
    );
    assert_eq!(
        (d.u64().unwrap(), d.u64().unwrap(), d.u64().unwrap()),
        (1, 0, 5)
    );
    assert_eq!(body.len(), 8 + 13 + 12 + 15 * 8);
    assert_eq!(client.ask(request::STATFS, &[D(FID)]).unwrap().len(), 60);
}

#[test]
fn mode_size_and_times_can_be_set() {
    let mut client = Client::mount();
    fs::write(client.host("file"), b"12345").unwrap();
    client.find(FID, &["file"]);
    client
        .set(FID, 1 | 8 | 0x10 | 0x20 | 0x80 | 0x100, 0o600, 3)
        .unwrap();
    let meta = fs::metadata(client.host("file")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.len()), (0o600, 3));
    assert_eq!(
        (
            meta.atime(),
            meta.atime_nsec(),
            meta.mtime(),
            meta.mtime_nsec()
        ),
        (1, 2, 3, 4)
    );
    client.open(FID, RDONLY).unwrap();
    client.set(FID, 8, 0, 1).unwrap();
    assert_eq!(fs::read(client.host("file")).unwrap(), b"1");
}

#[test]
fn a_guest_cannot_leave_programs_with_the_rights_of_the_host_user() {
    let mut client = Client::mount();
    client.find(FID, &[]);
    client.create(FID, "tool", 0o6755).unwrap();
    let mode = |client: &Client| fs::metadata(client.host("tool")).unwrap().mode() & 0o7000;
    assert_eq!(mode(&client), 0);
    client.set(FID, 1, 0o6755, 0).unwrap();
    assert_eq!(mode(&client), 0);
}

#[test]
fn directories_are_listed_completely_however_small_the_pieces() {
    let mut client = Client::mount();
    let mut expected: Vec<String> = (0..300).map(|i| format!("file-{i:03}")).collect();
    expected
        .iter()
        .for_each(|name| fs::write(client.host(name), b"").unwrap());
    expected.extend([".".into(), "..".into()]);
    expected.sort();
    client.find(FID, &[]);
    client.open(FID, RDONLY).unwrap();
    assert_eq!(client.list(FID, 8000), expected);
    assert_eq!(client.list(FID, 64), expected);
    assert_eq!(
        client.ask(request::READDIR, &[D(FID), Q(0), D(5)]),
        Err(Errno::INVAL)
    );
}

#[test]
fn a_read_only_share_is_read_only() {
    let mut client = Client::mount_as(true);
    fs::write(client.host("file"), b"data").unwrap();
    client.find(FID, &["file"]);
    for flags in [WRONLY, RDWR, RDONLY | TRUNC] {
        assert_eq!(client.open(FID, flags), Err(Errno::ROFS));
    }
    assert_eq!(client.create(ROOT, "new", 0o644), Err(Errno::ROFS));
    assert_eq!(client.set(FID, 1, 0o777, 0), Err(Errno::ROFS));
    for (kind, parts) in [
        (request::MKDIR, vec![D(ROOT), S("d"), D(0o755), D(0)]),
        (request::SYMLINK, vec![D(ROOT), S("l"), S("t"), D(0)]),
        (
            request::MKNOD,
            vec![D(ROOT), S("n"), D(0o010_644), D(0), D(0), D(0)],
        ),
        (request::LINK, vec![D(ROOT), D(FID), S("h")]),
        (request::RENAMEAT, vec![D(ROOT), S("file"), D(ROOT), S("f")]),
        (request::UNLINKAT, vec![D(ROOT), S("file"), D(0)]),
    ] {
        assert_eq!(client.ask(kind, &parts), Err(Errno::ROFS), "request {kind}");
    }
    client.open(FID, RDONLY).unwrap();
    assert_eq!(client.read(FID, 0, 10).unwrap(), b"data");
    assert!(client.write(FID, 0, b"x").is_err());
    let mut clone = client.fork();
    assert_eq!(clone.create(ROOT, "new", 0o644), Err(Errno::ROFS));
}

#[test]
fn a_clone_goes_on_with_the_files_its_parent_had_open() {
    let mut parent = Client::mount();
    parent.find(FID, &[]);
    parent.create(FID, "log", 0o644).unwrap();
    parent.write(FID, 0, b"before").unwrap();
    fs::write(parent.host("gone"), b"x").unwrap();
    parent.find(OTHER, &["gone"]);
    parent.open(OTHER, RDONLY).unwrap();
    fs::remove_file(parent.host("gone")).unwrap();

    let mut clone = parent.fork();
    assert_eq!(clone.read(FID, 0, 10).unwrap(), b"before");
    clone.write(FID, 6, b" after").unwrap();
    assert_eq!(parent.read(FID, 0, 20).unwrap(), b"before after");
    assert_eq!(clone.read(OTHER, 0, 1), Err(Errno::STALE));
    assert_eq!(parent.read(OTHER, 0, 1).unwrap(), b"x");
    // What one closes stays open in the other.
    parent.clunk(FID).unwrap();
    assert_eq!(clone.read(FID, 0, 6).unwrap(), b"before");
}

#[test]
fn a_clone_does_not_truncate_again_what_was_opened_with_truncation() {
    let mut parent = Client::mount();
    fs::write(parent.host("file"), b"old").unwrap();
    parent.find(FID, &["file"]);
    parent.open(FID, RDWR | TRUNC).unwrap();
    parent.write(FID, 0, b"new").unwrap();
    let mut clone = parent.fork();
    assert_eq!(clone.read(FID, 0, 10).unwrap(), b"new");
}

#[test]
fn large_reads_and_writes_fill_a_message_and_no_more() {
    let mut client = Client::mount();
    let data: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
    client.find(FID, &[]);
    client.create(FID, "big", 0o644).unwrap();
    client.write(FID, 0, &data).unwrap();
    let read = frame(request::READ, &[D(FID), Q(0), D(u32::MAX)]);
    let body = client.ask_raw(&read, 200_000).unwrap();
    assert!(body[4..] == data);
    // No more than there is room for.
    assert_eq!(client.read(FID, 0, u32::MAX).unwrap(), data[..8192 - 11]);
}

#[test]
fn the_tag_is_in_the_configuration_space() {
    let dir = tempfile::tempdir().unwrap();
    let device = P9::new("share0", dir.path(), false).unwrap();
    let mut config = [0xff; 10];
    device.read_config(0, &mut config);
    assert_eq!(&config, b"\x06\0share0\0\0");
    for tag in ["", &"x".repeat(32)] {
        assert!(P9::new(tag, dir.path(), false).is_err());
    }
    assert!(P9::new("t", Path::new("/nowhere"), false).is_err());
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(P9::new("t", &file, false).is_err());
}
