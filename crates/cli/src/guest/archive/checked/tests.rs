//! Each hostile archive is unpacked in a process of its own, whose memory is looked at.

use super::super::unpack;
use super::*;
use std::fs;
use std::process::Command;

/// Environment variable of such a process: which archive it unpacks.
const ARCHIVE: &str = "HYPERFORK_TEST_ARCHIVE";
/// Most memory that unpacking may take, KiB.
const MOST_KIB: u64 = 32 << 10;
const MUCH: u64 = 1 << 30;

/// An archive that is made while it is read, block by block.
struct Blocks<F>(F, Vec<u8>);

impl<F: FnMut(u64) -> Option<Vec<u8>>> Blocks<F> {
    fn of(mut make: F) -> Blocks<impl FnMut() -> Option<Vec<u8>>> {
        let mut number = 0;
        let next = move || {
            number += 1;
            make(number - 1)
        };
        Blocks(next, Vec::new())
    }
}

impl<F: FnMut() -> Option<Vec<u8>>> Read for Blocks<F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.1.is_empty() {
            let Some(block) = (self.0)() else {
                return Ok(0);
            };
            self.1 = block;
        }
        let len = self.1.as_slice().read(into)?;
        self.1.drain(..len);
        Ok(len)
    }
}

fn header(kind: EntryType, name: &str, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(size);
    header.set_cksum();
    header
}

fn entry(kind: EntryType, name: &str, size: u64) -> Vec<u8> {
    header(kind, name, size).as_bytes().to_vec()
}

/// One entry of this kind with very much in it.
fn large(kind: EntryType) -> impl Read {
    let header = io::Cursor::new(entry(kind, "x", MUCH));
    header.chain(io::repeat(b'x').take(MUCH))
}

/// The archives, and whether they can be unpacked.
fn archives() -> Vec<(&'static str, bool, Box<dyn Read>)> {
    let sparse = |number| {
        if number == 0 {
            let mut header = header(EntryType::GNUSparse, "x", 0);
            header.as_gnu_mut().unwrap().isextended[0] = 1;
            header.set_cksum();
            return Some(header.as_bytes().to_vec());
        }
        let mut map = Vec::new();
        for part in 0..21 {
            map.extend(format!("{:011o}\0{:011o}\0", number * 21 + part, 0).bytes());
        }
        map.resize(BLOCK, 0);
        map[504] = 1;
        (number < 100_000).then_some(map)
    };
    let directories = |number: u64| {
        let name = format!("d{}", number % 2);
        (number < 100_000).then(|| entry(EntryType::Directory, &name, 0))
    };
    let nested = |number: u64| {
        // Each within the last. (Deeper ones take the file system long.)
        let name = "a/".repeat(number as usize / 3 + 1);
        let wanted = number < 3 * 200;
        let block = match number % 3 {
            0 => entry(EntryType::GNULongName, "x", name.len() as u64 + 1),
            1 => {
                let mut name = name.into_bytes();
                name.resize((name.len() + 1).next_multiple_of(BLOCK), 0);
                name
            }
            _ => entry(EntryType::Directory, "x", 0),
        };
        wanted.then_some(block)
    };
    vec![
        (
            "a long name",
            false,
            Box::new(large(EntryType::GNULongName)),
        ),
        (
            "a long link",
            false,
            Box::new(large(EntryType::GNULongLink)),
        ),
        (
            "an extended header",
            false,
            Box::new(large(EntryType::XHeader)),
        ),
        (
            "a header for all",
            false,
            Box::new(large(EntryType::XGlobalHeader)),
        ),
        ("a sparse file", false, Box::new(Blocks::of(sparse))),
        (
            "directories without end",
            true,
            Box::new(Blocks::of(directories)),
        ),
        (
            "directories in each other",
            true,
            Box::new(Blocks::of(nested)),
        ),
        ("a large file", true, {
            let header = io::Cursor::new(entry(EntryType::Regular, "x", 128 << 20));
            Box::new(header.chain(io::repeat(b'x').take(128 << 20)))
        }),
    ]
}

#[test]
fn unpacking_takes_little_memory_whatever_a_guest_sends() {
    for (name, ..) in archives() {
        let test = "guest::archive::checked::tests::a_hostile_archive";
        let output = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--ignored"])
            .env(ARCHIVE, name)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{name}: {said}"
        );
    }
}

/// The most memory that this process has had, KiB.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.unwrap().trim().strip_suffix(" kB").unwrap();
    peak.parse().unwrap()
}

#[test]
#[ignore = "a process of the test above"]
fn a_hostile_archive() {
    let wanted = std::env::var(ARCHIVE).unwrap();
    let all = archives().into_iter();
    let (_, can_be, mut archive) = all.into_iter().find(|(name, ..)| *name == wanted).unwrap();
    let target = tempfile::tempdir().unwrap();
    let before = peak_kib();
    let unpacked = unpack(&mut archive, target.path());
    let taken = peak_kib() - before;
    assert_eq!(unpacked.is_ok(), can_be, "{unpacked:?}");
    assert!(taken < MOST_KIB, "{taken} KiB");
}
