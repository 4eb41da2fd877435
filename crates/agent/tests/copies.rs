//! Copies between host and guest.
#![allow(clippy::unwrap_used)]

mod support;

use hyperfork_api::frame::CHUNK;
use hyperfork_api::guest::{Failure, Reply, Request, Stream};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use support::*;
use tar::{Archive, Builder, EntryType, Header};

/// Sends an archive and gives the agent's last word.
fn copy_in(agent: &Agent, path: &Path, archive: &[u8]) -> Stream {
    let mut talk = agent.connect(PARENT);
    let path = path.display().to_string();
    talk.say(&Request::CopyIn { path });
    assert_eq!(talk.hear::<Reply>(), Reply::Streaming);
    for chunk in archive.chunks(CHUNK) {
        talk.say(&Stream::Data(chunk.to_vec()));
    }
    talk.say(&Stream::DataEnd);
    let last = talk.hear();
    assert!(talk.is_closed());
    last
}

fn copy_out(agent: &Agent, path: &str) -> Result<Vec<u8>, Failure> {
    let mut talk = agent.connect(PARENT);
    talk.say(&Request::CopyOut {
        path: path.to_owned(),
    });
    assert_eq!(talk.hear::<Reply>(), Reply::Streaming);
    let mut archive = Vec::new();
    loop {
        match talk.hear() {
            Stream::Data(bytes) => archive.extend(bytes),
            Stream::DataEnd => return Ok(archive),
            Stream::Failed(failure) => return Err(failure),
            other => panic!("{other:?}"),
        }
    }
}

/// An archive of entries as a hostile or careless host may make them: kind, name,
/// and content or target.
fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, content) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o640);
        header.set_mtime(1_000_000_000);
        // By hand, since `Builder` refuses the names that matter here.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if kind.is_file() {
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        } else {
            header.set_size(0);
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
            header.set_cksum();
            builder.append(&header, std::io::empty()).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

fn file(name: &str) -> (EntryType, &str, &'static str) {
    (EntryType::Regular, name, "content")
}

#[test]
fn a_tree_survives_the_way_in_and_out() {
    let agent = Agent::start();
    let source = agent.path("tree");
    let long = "n".repeat(200);
    fs::create_dir_all(source.join("sub/empty")).unwrap();
    fs::write(source.join("sub").join(&long), "long").unwrap();
    fs::write(source.join("program"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(source.join("program"), PermissionsExt::from_mode(0o4751)).unwrap();
    fs::set_permissions(source.join("sub"), PermissionsExt::from_mode(0o500)).unwrap();
    symlink("../no/such", source.join("dangling")).unwrap();
    symlink("sub", source.join("to-sub")).unwrap();
    fs::hard_link(source.join("program"), source.join("same")).unwrap();

    let tree = copy_out(&agent, source.to_str().unwrap()).unwrap();
    let into = agent.path("into");
    fs::create_dir(&into).unwrap();
    assert_eq!(copy_in(&agent, &into, &tree), Stream::DataEnd);

    let copy = into.join("tree");
    assert_eq!(fs::read(copy.join("sub").join(&long)).unwrap(), b"long");
    assert_eq!(
        fs::read_link(copy.join("dangling")).unwrap(),
        Path::new("../no/such")
    );
    assert_eq!(
        fs::read_link(copy.join("to-sub")).unwrap(),
        Path::new("sub")
    );
    assert!(copy.join("sub/empty").is_dir());
    for name in ["program", "same", "sub", "sub/empty", "."] {
        let (was, is) = (source.join(name).metadata(), copy.join(name).metadata());
        let (was, is) = (was.unwrap(), is.unwrap());
        assert_eq!((was.mode(), was.mtime()), (is.mode(), is.mtime()), "{name}");
    }
}

#[test]
fn a_path_that_is_no_directory_names_the_only_entry() {
    let agent = Agent::start();
    let one = archive(&[file("original")]);
    assert_eq!(
        copy_in(&agent, &agent.path("renamed"), &one),
        Stream::DataEnd
    );
    assert_eq!(content(&agent.path("renamed")).unwrap(), "content");
    // Once more, over what is there.
    assert_eq!(
        copy_in(&agent, &agent.path("renamed"), &one),
        Stream::DataEnd
    );

    let tree = archive(&[(EntryType::Directory, "d", ""), file("d/f")]);
    assert_eq!(copy_in(&agent, &agent.path("e"), &tree), Stream::DataEnd);
    assert_eq!(content(&agent.path("e/f")).unwrap(), "content");

    let two = archive(&[file("a"), file("b")]);
    assert!(matches!(
        copy_in(&agent, &agent.path("new"), &two),
        Stream::Failed(_)
    ));
    for bad in ["no/such", "no-slash/"] {
        let last = copy_in(&agent, &agent.path(bad), &one);
        assert!(
            matches!(last, Stream::Failed(Failure::File { .. })),
            "{bad}"
        );
    }
}

#[test]
fn a_directorys_contents_are_copied_without_it() {
    let agent = Agent::start();
    let source = agent.path("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("sub/file"), "content").unwrap();
    let inside = format!("{}/.", source.display());
    let tree = copy_out(&agent, &inside).unwrap();
    let into = agent.path("into");
    fs::create_dir(&into).unwrap();
    assert_eq!(copy_in(&agent, &into, &tree), Stream::DataEnd);
    assert_eq!(content(&into.join("sub/file")).unwrap(), "content");
    // And under a name that is not there yet.
    assert_eq!(copy_in(&agent, &agent.path("new"), &tree), Stream::DataEnd);
    assert_eq!(content(&agent.path("new/sub/file")).unwrap(), "content");
}

#[test]
fn nothing_is_written_outside_the_directory() {
    let agent = Agent::start();
    let into = agent.path("into");
    let outside = agent.path("outside");
    fs::create_dir(&outside).unwrap();
    let absolute = outside.display().to_string();
    for entries in [
        vec![file("../outside/f")],
        vec![file("a/../../outside/f")],
        vec![(EntryType::Symlink, "l", "../outside"), file("l/f")],
        vec![(EntryType::Symlink, "l", absolute.as_str()), file("l/f")],
        vec![
            (EntryType::Symlink, "l", "../outside"),
            (EntryType::Directory, "l/f", ""),
        ],
        vec![(EntryType::Link, "passwd", "../../../etc/passwd")],
        vec![(EntryType::Link, "passwd", "/etc/passwd")],
        vec![
            (EntryType::Symlink, "l", "/etc"),
            (EntryType::Link, "passwd", "l/passwd"),
        ],
        vec![(EntryType::Char, "null", "")],
    ] {
        fs::create_dir(&into).unwrap();
        let last = copy_in(&agent, &into, &archive(&entries));
        assert!(matches!(last, Stream::Failed(_)), "{entries:?}: {last:?}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{entries:?}");
        assert!(!into.join("passwd").exists(), "{entries:?}");
        fs::remove_dir_all(&into).unwrap();
    }
}

#[test]
fn links_that_stay_inside_are_followed_and_a_file_never_writes_through_a_link() {
    let agent = Agent::start();
    let into = agent.path("into");
    fs::create_dir_all(into.join("real")).unwrap();
    symlink("real", into.join("l")).unwrap();
    fs::write(agent.path("precious"), "precious").unwrap();
    symlink("../precious", into.join("f")).unwrap();
    let entries = [
        file("l/x"),
        file("f"),
        file("/absolute"),
        file("./made/on/the/way"),
    ];
    assert_eq!(copy_in(&agent, &into, &archive(&entries)), Stream::DataEnd);
    for name in ["real/x", "f", "absolute", "made/on/the/way"] {
        assert_eq!(content(&into.join(name)).unwrap(), "content", "{name}");
    }
    assert_eq!(content(&agent.path("precious")).unwrap(), "precious");
    let metadata = into.join("f").symlink_metadata().unwrap();
    assert_eq!(
        (metadata.mode() & 0o7777, metadata.mtime()),
        (0o640, 1_000_000_000)
    );
}

#[test]
fn what_is_not_there_and_what_is_no_archive_is_an_error() {
    let agent = Agent::start();
    let Err(Failure::File { path, reason }) = copy_out(&agent, "/no/such") else {
        panic!("it was copied");
    };
    assert_eq!(path, "/no/such");
    assert!(reason.contains("No such file"));

    let into = agent.path("into");
    fs::create_dir(&into).unwrap();
    let last = copy_in(&agent, &into, &[b'x'; 3000]);
    assert!(matches!(last, Stream::Failed(_)), "{last:?}");
    let mut cut = archive(&[file("f")]);
    cut.truncate(515);
    let last = copy_in(&agent, &into, &cut);
    assert!(matches!(last, Stream::Failed(_)), "{last:?}");
    assert!(agent.is_alive());
}

#[test]
fn a_failure_in_the_middle_of_a_long_archive_is_heard() {
    let agent = Agent::start();
    let mut bad = archive(&[file("../f")]);
    bad.extend(vec![0; 30 << 20]);
    let last = copy_in(&agent, &agent.path(""), &bad);
    assert!(matches!(last, Stream::Failed(Failure::File { .. })));
}

#[test]
fn a_file_that_grows_while_it_is_copied_is_cut_to_its_size_at_the_time() {
    let agent = Agent::start();
    let path = agent.path("growing");
    fs::write(&path, vec![b'x'; 10 << 20]).unwrap();
    let mut talk = agent.connect(PARENT);
    talk.say(&Request::CopyOut {
        path: path.display().to_string(),
    });
    assert_eq!(talk.hear::<Reply>(), Reply::Streaming);
    let mut bytes = Vec::new();
    // Some of it has been sent, the rest waits for us.
    if let Stream::Data(first) = talk.hear() {
        bytes.extend(first);
    }
    let mut growing = fs::OpenOptions::new().append(true).open(&path).unwrap();
    growing.write_all(&[b'y'; 1 << 20]).unwrap();
    while let Stream::Data(more) = talk.hear() {
        bytes.extend(more);
    }
    let mut archive = Archive::new(bytes.as_slice());
    let entries: Vec<_> = archive.entries().unwrap().map(Result::unwrap).collect();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].size(), 10 << 20);
}

#[test]
fn large_files_pass_through_a_bounded_buffer() {
    const LEN: u64 = 100 << 20;
    let agent = Agent::start();
    let source = agent.path("large");
    fs::File::create(&source).unwrap().set_len(LEN).unwrap();
    let bytes = copy_out(&agent, source.to_str().unwrap()).unwrap();
    let copy = agent.path("copy");
    assert_eq!(copy_in(&agent, &copy, &bytes), Stream::DataEnd);
    assert_eq!(copy.metadata().unwrap().len(), LEN);
    let peak = agent.peak_kib();
    assert!(peak < 8 << 10, "the agent took {peak} KiB");
}

#[test]
fn many_copies_run_at_once_but_not_too_many() {
    let agent = Agent::start();
    let begin = || {
        let mut talk = agent.connect(PARENT);
        let path = agent.path("").display().to_string();
        talk.say(&Request::CopyIn { path });
        let reply = talk.hear::<Reply>();
        (talk, reply)
    };
    let under_way: Vec<_> = (0..16).map(|_| begin()).collect();
    assert!(
        under_way
            .iter()
            .all(|(_, reply)| *reply == Reply::Streaming)
    );
    assert!(matches!(begin().1, Reply::Failed(Failure::Refused(_))));
    assert!(agent.is_alive());
    drop(under_way);
    wait_until("they are over", || begin().1 == Reply::Streaming);
}
