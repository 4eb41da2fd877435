//! The file that tells the guest's programs who they are.
//!
//! Two files take turns: the one that nobody sees is written, then the two
//! exchange names. Where the guest's kernel is emulated that takes 7 ms, making a
//! new file each time 22 ms, and a clone answers nothing before. Who opens the
//! file gets one whole identity; who keeps it open over two forks does not.

use hyperfork_api::Identity;
use hyperfork_api::guest::{GuestIdentity, IDENTITY_PATH};
use rustix::fs::{Mode, OFlags, RenameFlags, mkdir, open, openat, renameat, renameat_with};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The file's length, whatever it says, so that a shorter text leaves nothing of
/// a longer one: enough for the longest name.
const LEN: usize = 128;

const NEW: &str = "identity.new";

/// The file, once it was written.
#[derive(Debug)]
pub(crate) struct IdentityFile {
    directory: PathBuf,
    pair: Option<Pair>,
}

#[derive(Debug)]
struct Pair {
    directory: OwnedFd,
    /// What programs see.
    shown: File,
    /// What is written next.
    spare: File,
}

impl IdentityFile {
    /// The file of this name in a directory, which is made if it is not there.
    pub(crate) fn in_directory(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            pair: None,
        }
    }

    /// Replaces what programs see, in one step.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn write(&mut self, identity: &Identity) -> io::Result<()> {
        let text = json(identity);
        if let Some(pair) = &mut self.pair
            && pair.replace(&text).is_ok()
        {
            return Ok(());
        }
        // The first time, or somebody has removed them.
        self.pair = Some(Pair::make(&self.directory, &text)?);
        Ok(())
    }
}

impl Pair {
    fn make(directory: &Path, text: &str) -> io::Result<Self> {
        match mkdir(directory, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(directory, flags, Mode::empty())?;
        let shown = new_file(&directory)?;
        shown.write_all_at(text.as_bytes(), 0)?;
        renameat(&directory, NEW, &directory, name())?;
        let spare = new_file(&directory)?;
        Ok(Self {
            directory,
            shown,
            spare,
        })
    }

    fn replace(&mut self, text: &str) -> io::Result<()> {
        self.spare.write_all_at(text.as_bytes(), 0)?;
        let directory = &self.directory;
        renameat_with(directory, NEW, directory, name(), RenameFlags::EXCHANGE)?;
        mem::swap(&mut self.shown, &mut self.spare);
        Ok(())
    }
}

fn new_file(directory: &OwnedFd) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    Ok(openat(directory, NEW, flags, Mode::from_raw_mode(0o644))?.into())
}

fn name() -> &'static Path {
    Path::new(IDENTITY_PATH)
        .file_name()
        .map_or(Path::new(""), Path::new)
}

/// A [`GuestIdentity`] as JSON, without a library that would look for AVX in
/// CPUID: it is there even where the kernel does not save its registers.
fn json(identity: &Identity) -> String {
    let GuestIdentity {
        name,
        index,
        generation,
        cid,
    } = GuestIdentity {
        // A name has only letters, digits and `_.-`: nothing to escape.
        name: identity.name.as_str().to_owned(),
        index: identity.index,
        generation: identity.generation,
        cid: identity.cid,
    };
    let text = format!(
        "{{\"name\":\"{name}\",\"index\":{index},\"generation\":{generation},\"cid\":{cid}}}"
    );
    format!("{text:<width$}\n", width = LEN - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyperfork_api::VmName;
    use std::fs;

    fn identity(name: &str, number: u32) -> Identity {
        Identity {
            network: None,
            name: VmName::new(name).unwrap(),
            index: number,
            generation: number,
            cid: number,
            seed: vec![7; Identity::SEED_LEN],
        }
    }

    fn read(directory: &Path) -> GuestIdentity {
        let bytes = fs::read(directory.join(name())).unwrap();
        assert_eq!(bytes.len(), LEN);
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn programs_read_the_latest_identity_as_json() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("made");
        let mut file = IdentityFile::in_directory(&directory);
        let longest = "x".repeat(VmName::MAX_LEN);
        for (name, number) in [
            (longest.as_str(), u32::MAX),
            ("a", 0),
            ("b.2_c-1", 1),
            ("d", 2),
        ] {
            file.write(&identity(name, number)).unwrap();
            let GuestIdentity {
                name: read_name,
                index,
                generation,
                cid,
            } = read(&directory);
            assert_eq!(read_name, name);
            assert_eq!([index, generation, cid], [number; 3]);
        }
    }

    #[test]
    fn who_has_opened_the_file_reads_one_whole_identity() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = IdentityFile::in_directory(directory.path());
        file.write(&identity("before", 1)).unwrap();
        let opened = File::open(directory.path().join(name())).unwrap();
        file.write(&identity("after", 2)).unwrap();
        let text = io::read_to_string(opened).unwrap();
        assert!(text.contains("before") && !text.contains("after"));
    }

    #[test]
    fn the_file_comes_back_when_somebody_has_removed_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = IdentityFile::in_directory(directory.path());
        for number in 0..4 {
            for victim in [Path::new(NEW), name()].into_iter().take(number as usize) {
                fs::remove_file(directory.path().join(victim)).unwrap();
            }
            file.write(&identity("again", number)).unwrap();
            assert_eq!(read(directory.path()).index, number);
        }
    }
}
