//! The files that a VM leaves in its directory for others to read: its description, which
//! outlives its process, and its token.

use crate::run_dir::{INFO, UNFINISHED, VmDir};
use hyperfork_api::spec::Guest;
use hyperfork_api::{Identity, VmAbout, VmInfo, VmName, VmSpec, VmStatus, VmUsage};
use hyperfork_sys::fault;
use rustix::fs::OFlags;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

/// The description of a VM that is just starting.
pub fn initial_info(spec: &VmSpec, identity: &Identity, parent: Option<VmName>) -> VmInfo {
    let command = match &spec.guest {
        Guest::Linux(guest) => guest.command.as_ref().map(|command| command.argv.clone()),
        Guest::Nano { .. } => None,
    };
    let kind = spec.guest.network().map(|network| &network.kind);
    let about = VmAbout {
        name: identity.name.clone(),
        image: spec.image.clone(),
        cpus: spec.cpus,
        memory_mib: spec.memory.as_mib(),
        parent,
        generation: identity.generation,
        index: identity.index,
        cid: identity.cid,
        machine_id: identity.machine_id.to_string(),
        net: kind.map(|kind| kind.mode),
        egress: kind.map(|kind| kind.egress.to_strings()),
        created_unix_ms: hyperfork_sys::clock::unix_ms(),
        max_forks: spec.max_forks,
        command,
    };
    VmInfo {
        about,
        status: VmStatus::starting(),
        usage: VmUsage::default(),
    }
}

/// Writes the description to the VM's directory: as a new file, or, when there is no room for
/// one, over the old. A reader gets the old or the new one ([`VmDir`]'s `read_info`).
///
/// # Errors
/// The file system's.
pub fn write_info(dir: &VmDir, info: &VmInfo) -> io::Result<()> {
    fault::point("clone.record")?;
    let path = dir.info_path();
    let temporary = path.with_extension("json.new");
    match fs::write(&temporary, serde_json::to_vec_pretty(info)?) {
        Err(error) if is_without_room(&error) => {
            let _ = fs::remove_file(&temporary);
            // Without the spaces, to be no longer than the old one.
            write_over(dir, serde_json::to_vec(info)?).map_err(|_| error)
        }
        written => written.and_then(|()| fs::rename(&temporary, &path)),
    }
}

fn is_without_room(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Writes the description over the old one. Its first byte is written last and is no JSON until
/// then, so that a reader never takes what is half written for a description.
fn write_over(dir: &VmDir, mut text: Vec<u8>) -> io::Result<()> {
    let file = dir.open(INFO, OFlags::WRONLY)?;
    let old = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    // Space after it means nothing, so what there is no room for is noticed before anything is lost.
    file.write_all_at(&vec![b' '; text.len().saturating_sub(old)], old as u64)?;
    text.resize(text.len().max(old), b' ');
    file.write_all_at(&[UNFINISHED], 0)?;
    file.write_all_at(&text[1..], 1)?;
    file.write_all_at(&text[..1], 0)
}

/// Writes the token that proves a party to be this VM, readable by the VM's user alone. No
/// listing has it.
///
/// # Errors
/// The file system's.
pub fn write_token(dir: &VmDir, identity: &Identity) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(dir.token_path())?;
    writeln!(file, "{}", identity.token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientError;
    use crate::run_dir::RunDir;
    use crate::run_dir::tests::nano_info;
    use hyperfork_api::VmState;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    /// A VM's directory with a description, in which there is no room for another file.
    fn full(info: &VmInfo) -> (tempfile::TempDir, VmDir) {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = RunDir::at(folder.path().to_owned());
        let dir = run_dir.claim(&info.about.name).unwrap().dir;
        write_info(&dir, info).unwrap();
        fill(&dir);
        (folder, dir)
    }

    /// Has the next new file find no room.
    fn fill(dir: &VmDir) {
        symlink("/dev/full", dir.info_path().with_extension("json.new")).unwrap();
    }

    #[test]
    fn a_description_is_written_without_room_for_a_new_file() {
        let mut info = nano_info();
        let (_folder, dir) = full(&info);
        // The second is longer than the file is.
        for error in ["short".to_owned(), "long ".repeat(1000)] {
            info.status.state = VmState::Failed;
            info.status.error = Some(error);
            let _ = fs::remove_file(dir.info_path().with_extension("json.new"));
            fill(&dir);
            write_info(&dir, &info).unwrap();
            assert_eq!(dir.recorded_info().unwrap().status.error, info.status.error);
        }
    }

    #[test]
    fn no_mixture_of_two_descriptions_is_read_while_one_is_written_over() {
        const TIMES: u32 = 2000;
        let mut info = nano_info();
        info.status.state = VmState::Stopped;
        info.status.error = Some(String::new());
        let (_folder, dir) = full(&info);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for time in 0..TIMES {
                    let letter = if time % 2 == 0 { "a" } else { "b" };
                    info.status.error = Some(letter.repeat(3000));
                    write_over(&dir, serde_json::to_vec(&info).unwrap()).unwrap();
                }
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                match dir.recorded_info() {
                    Ok(info) => {
                        let error = info.status.error.unwrap();
                        assert!(error.bytes().all(|byte| error.starts_with(byte as char)));
                    }
                    // The writer had to wait for a processor in the middle.
                    Err(error) => assert!(matches!(error, ClientError::Damaged { .. })),
                }
            }
        });
    }

    #[test]
    fn a_description_that_was_half_written_is_none() {
        let info = nano_info();
        let (_folder, dir) = full(&info);
        let file = dir.open(INFO, OFlags::WRONLY).unwrap();
        file.write_all_at(&[UNFINISHED], 0).unwrap();
        assert!(dir.recorded_info().is_err());
    }
}
