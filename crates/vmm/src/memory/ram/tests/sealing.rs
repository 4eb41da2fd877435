//! Tests of the files that clones get, and of forks in which these cannot be sealed.

use super::*;
use crate::blobs::{BlobReader, BlobWriter};
use crate::sys::fds::FdTable;
use crate::sys::{hole, memfd};
use rustix::fs::{SealFlags, fcntl_get_seals};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// All files of an image, by the descriptors that clones get.
fn handed_over(image: &RamImage) -> Vec<File> {
    let mut blobs = BlobWriter::default();
    image.save(&mut blobs).unwrap();
    let (_, fds) = blobs.into_parts();
    let clone = |fd: &OwnedFd| File::from(fd.try_clone().unwrap());
    fds.as_slice().iter().map(clone).collect()
}

#[test]
fn nothing_that_a_clone_is_handed_can_be_written_whatever_is_done_later() {
    let mut parent = booted();
    write(&parent, 0x1000, 1);
    let (_, first_cleanup) = freeze(&mut parent).unwrap();
    write(&parent, 0x5000, 5);
    // Into an arena that is made in the pause, and then into one that was made before.
    let (second, cleanup) = freeze(&mut parent).unwrap();
    cleanup.run().unwrap();
    write(&parent, 0x5000, 6);
    let (third, _cleanup) = freeze(&mut parent).unwrap();
    // Nothing of it has been run for the base and the last arena.
    let files = handed_over(&second).into_iter().chain(handed_over(&third));
    let files: Vec<_> = files.collect();
    assert_eq!(files.len(), 4);
    for file in &files {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let again = File::options().read(true).write(true).open(path).unwrap();
        for file in [file, &again] {
            assert!(file.write_at(&[1], 0).is_err());
            assert!(file.set_len(0).is_err());
            assert!(hole::punch(file, 0..4096).is_err());
            let len = file.metadata().unwrap().len() as usize;
            assert!(Mapping::reserve(len).unwrap().place_shared(file).is_err());
        }
    }
    drop(first_cleanup);
    assert_eq!(read(&clone_of(&second), 0x5000), 5);
    assert_eq!(read(&clone_of(&third), 0x5000), 6);
}

#[test]
fn a_clone_takes_no_image_that_could_be_written() {
    let mut parent = booted();
    let (image, _cleanup) = freeze(&mut parent).unwrap();
    let mut blobs = BlobWriter::default();
    let state = image.save(&mut blobs).unwrap();
    RamImage::restore(state.clone(), blobs.reader()).unwrap();
    let (table, _) = blobs.into_parts();
    let path = format!("/proc/self/fd/{}", image.base.as_raw_fd());
    let writable = File::options().read(true).write(true).open(path).unwrap();
    let unsealed = memfd::create("test", SIZE).unwrap();
    for (file, reason) in [
        (writable, "the descriptor of a memory file is not read-only"),
        (unsealed, "the descriptor of a memory file is not read-only"),
        (read_only(SIZE), "a memory file lacks the seals"),
        (File::open("/dev/zero").unwrap(), "has no seals"),
    ] {
        let fds = FdTable::new(vec![file.into()]);
        let blobs = BlobReader::new(&table, &fds);
        let error = RamImage::restore(state.clone(), blobs).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
}

/// A memory file without seals, by a descriptor that does not write.
fn read_only(len: u64) -> File {
    let file = memfd::create("test", len).unwrap();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    File::open(path).unwrap()
}

#[test]
fn a_base_that_cannot_be_sealed_fails_the_fork_and_the_machine_goes_on() {
    let mut parent = booted();
    write(&parent, 0x1000, 1);
    lock(&parent.backing).refuse_seals();
    for value in 2..4 {
        let error = freeze(&mut parent).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let message = crate::one_line(&error);
        assert!(message.contains("sealed against new writers"), "{message}");
        assert_eq!(
            [read(&parent, 0x1000), read(&parent, 0x2000)],
            [value - 1, 0]
        );
        write(&parent, 0x1000, value);
    }
}

#[test]
fn copies_that_cannot_be_sealed_fail_the_fork_and_the_next_one_has_them() {
    for tracked in [false, true] {
        let mut parent = booted();
        parent
            .tracking
            .begin_at(if tracked { 1 } else { usize::MAX });
        for value in 1..3 {
            write(&parent, 0x1000, value);
            let (_, cleanup) = freeze(&mut parent).unwrap();
            cleanup.run().unwrap();
        }
        assert!(!tracked || parent.tracking.is_on() || open_userfault().unwrap().is_none());
        write(&parent, 0x5000, 5);
        parent.spare.prepare_unsealable();
        let error = freeze(&mut parent).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        write(&parent, 0x9000, 9);
        let (image, cleanup) = freeze(&mut parent).unwrap();
        cleanup.run().unwrap();
        let clone = clone_of(&image);
        for ram in [&parent, &clone] {
            let seen = [0x1000, 0x5000, 0x9000].map(|address| read(ram, address));
            assert_eq!(seen, [2, 5, 9]);
        }
    }
}

#[test]
fn a_fork_that_fails_after_the_freeze_leaves_its_cleanup_to_the_next() {
    let mut parent = booted();
    // SAFETY: nothing writes it meanwhile.
    let at_rest = unsafe { AtRest::new() };
    let image = parent.freeze(&at_rest).unwrap();
    write(&parent, 0x1000, 1);
    parent.freeze(&at_rest).unwrap();
    let is_complete = || {
        let seals = fcntl_get_seals(&image.base).unwrap();
        seals.contains(SealFlags::WRITE)
    };
    assert!(!is_complete());
    write(&parent, 0x1000, 2);
    let (later, cleanup) = freeze(&mut parent).unwrap();
    assert!(!is_complete());
    cleanup.run().unwrap();
    assert!(is_complete());
    assert_eq!(read(&clone_of(&later), 0x1000), 2);
}
