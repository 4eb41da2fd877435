//! The files that give the machine's identity to the guest's programs (docs/identity.md).
//!
//! The agent maps them, and a clone's agent writes them by plain stores: where the guest's
//! kernel is emulated a system call costs a millisecond, and a clone answers nothing before.
//! So they are always the same files, also for programs that have them open or mapped.

use crate::sys::page::Page;
use hyperfork_api::guest::GuestIdentity;
use hyperfork_api::{Id, Identity};
use rustix::fs::{Mode, OFlags, mkdir, open, openat};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// Length of the identity's text, whatever it says: enough for the longest name.
const IDENTITY_LEN: usize = 192;

/// Where 32 random bytes of the machine's own are in the page of the generation: the two
/// identifiers, by which a program knows this machine from all others without asking the kernel.
const OWN: usize = 16;

/// For all to read.
const PUBLIC: u32 = 0o644;
/// For root.
const SECRET: u32 = 0o600;

/// The files, once they were written.
#[derive(Debug)]
pub(crate) struct Pages {
    directory: PathBuf,
    made: Option<Made>,
}

#[derive(Debug)]
struct Made {
    identity: Page,
    machine_id: Page,
    boot_id: Page,
    token: Page,
    generation: Page,
}

/// What they say.
struct Texts {
    identity: String,
    machine_id: String,
    boot_id: String,
    token: String,
}

impl Pages {
    /// The files of a directory, which is made if it is not there.
    pub(crate) fn in_directory(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            made: None,
        }
    }

    /// Changes what programs see. The generation comes last: a program that sees the new one
    /// sees everything new.
    ///
    /// # Errors
    /// The kernel's, the first time.
    pub(crate) fn write(&mut self, identity: &Identity) -> io::Result<()> {
        let texts = Texts::of(identity);
        let made = match &mut self.made {
            Some(made) => made,
            none => none.insert(Made::new(&self.directory, &texts)?),
        };
        made.machine_id.write(texts.machine_id.as_bytes());
        made.boot_id.write(texts.boot_id.as_bytes());
        made.token.write(texts.token.as_bytes());
        made.identity.write(texts.identity.as_bytes());
        let own = [identity.machine_id, identity.boot_id].map(Id::into_bytes);
        made.generation.write_at(OWN, &own.concat());
        let generation = made.generation.number();
        generation.store(identity.generation, Ordering::Release);
        Ok(())
    }
}

impl Made {
    fn new(directory: &Path, texts: &Texts) -> io::Result<Self> {
        match mkdir(directory, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(directory, flags, Mode::empty())?;
        let text = |name, text: &str, mode| page(&directory, name, text.as_bytes(), mode);
        Ok(Self {
            identity: text("identity.json", &texts.identity, PUBLIC)?,
            machine_id: text("machine-id", &texts.machine_id, PUBLIC)?,
            boot_id: text("boot-id", &texts.boot_id, PUBLIC)?,
            token: text("token", &texts.token, SECRET)?,
            generation: page(&directory, "generation", &[0; Page::LEN], PUBLIC)?,
        })
    }
}

fn page(directory: &OwnedFd, name: &str, content: &[u8], mode: u32) -> io::Result<Page> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = File::from(openat(directory, name, flags, Mode::from_raw_mode(mode))?);
    file.write_all_at(content, 0)?;
    Page::map(&file, content.len())
}

impl Texts {
    fn of(identity: &Identity) -> Self {
        Self {
            identity: json(identity),
            machine_id: format!("{}\n", identity.machine_id),
            boot_id: format!("{}\n", identity.boot_id.as_uuid()),
            token: format!("{}\n", identity.token),
        }
    }
}

/// A [`GuestIdentity`] as JSON, without a library that would look for AVX in
/// CPUID: it is there even where the kernel does not save its registers.
fn json(identity: &Identity) -> String {
    let GuestIdentity {
        generation,
        name,
        index,
        cid,
        generation_again,
    } = GuestIdentity {
        generation: identity.generation,
        // A name has only letters, digits and `_.-`: nothing to escape.
        name: identity.name.as_str().to_owned(),
        index: identity.index,
        cid: identity.cid,
        generation_again: identity.generation,
    };
    let text = format!(
        "{{\"generation\":{generation},\"name\":\"{name}\",\"index\":{index},\"cid\":{cid},\
         \"generation_again\":{generation_again}}}"
    );
    format!("{text:<width$}\n", width = IDENTITY_LEN - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyperfork_api::VmName;
    use std::fs::{self, OpenOptions};

    fn identity(name: &str, number: u32) -> Identity {
        let id = |which: u8| Id::from_random([(number as u8).wrapping_add(which); Id::LEN]);
        Identity {
            network: None,
            name: VmName::new(name).unwrap(),
            index: number,
            generation: number,
            cid: number,
            seed: vec![7; Identity::SEED_LEN],
            machine_id: id(10),
            boot_id: id(20),
            token: id(30),
        }
    }

    #[test]
    fn programs_read_the_latest_identity() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("made");
        let mut pages = Pages::in_directory(&directory);
        let longest = "x".repeat(VmName::MAX_LEN);
        for (name, number) in [
            (longest.as_str(), u32::MAX),
            ("a", 0),
            ("b.2_c-1", 1),
            ("d", 2),
        ] {
            let identity = identity(name, number);
            pages.write(&identity).unwrap();
            let text = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
            assert_eq!(text("identity.json").len(), IDENTITY_LEN);
            let read: GuestIdentity = serde_json::from_str(&text("identity.json")).unwrap();
            assert_eq!(read.name, name);
            let GuestIdentity {
                generation,
                index,
                cid,
                generation_again,
                ..
            } = read;
            assert_eq!([generation, index, cid, generation_again], [number; 4]);
            assert_eq!(text("machine-id"), format!("{}\n", identity.machine_id));
            assert_eq!(text("boot-id").trim_end(), identity.boot_id.as_uuid());
            assert_eq!(text("token"), format!("{}\n", identity.token));
            let page = fs::read(directory.join("generation")).unwrap();
            assert_eq!(page.len(), Page::LEN);
            assert_eq!(page[..4], number.to_ne_bytes());
            assert_eq!(page[16..32], identity.machine_id.into_bytes());
            assert_eq!(page[32..48], identity.boot_id.into_bytes());
        }
    }

    #[test]
    fn who_has_opened_the_files_reads_the_latest_identity_too() {
        let directory = tempfile::tempdir().unwrap();
        let mut pages = Pages::in_directory(directory.path());
        pages.write(&identity("before", 1)).unwrap();
        let opened = File::open(directory.path().join("identity.json")).unwrap();
        pages.write(&identity("after", 2)).unwrap();
        let text = io::read_to_string(opened).unwrap();
        assert!(text.contains("after") && !text.contains("before"));
    }

    #[test]
    fn who_reads_while_it_is_written_can_tell() {
        let directory = tempfile::tempdir().unwrap();
        let mut pages = Pages::in_directory(directory.path());
        pages.write(&identity("n", 0)).unwrap();
        let path = directory.path().join("identity.json");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let page = Page::map(&file, IDENTITY_LEN).unwrap();
                let mut whole = 0;
                while whole < 100 {
                    let read = serde_json::from_slice::<GuestIdentity>(&page.read());
                    if let Ok(read) = read
                        && read.generation == read.generation_again
                    {
                        assert_eq!([read.index, read.cid], [read.generation; 2]);
                        whole += 1;
                    }
                }
            });
            for number in 1.. {
                if reader.is_finished() {
                    break;
                }
                pages.write(&identity("n", number)).unwrap();
            }
        });
    }
}
