//! Tests of names: made, renamed and removed, found by walks, and no way out of the directory.

use super::*;
use std::os::unix::fs::symlink;

#[test]
fn entries_are_made_renamed_linked_and_removed() {
    let mut client = Client::mount();
    client
        .ask(request::MKDIR, &[D(ROOT), S("a"), D(0o755), D(0)])
        .unwrap();
    client.find(FID, &["a"]);
    client
        .ask(request::SYMLINK, &[D(FID), S("link"), S("../target"), D(0)])
        .unwrap();
    client
        .ask(
            request::MKNOD,
            &[D(FID), S("fifo"), D(0o010_644), D(0), D(0), D(0)],
        )
        .unwrap();
    fs::write(client.host("a/file"), b"x").unwrap();
    client.find(OTHER, &["a", "file"]);
    client
        .ask(request::LINK, &[D(ROOT), D(OTHER), S("hard")])
        .unwrap();
    assert_eq!(fs::metadata(client.host("hard")).unwrap().nlink(), 2);
    client
        .ask(request::RENAMEAT, &[D(ROOT), S("a"), D(ROOT), S("b")])
        .unwrap();
    // Fids below what was renamed go with it.
    client.open(OTHER, RDONLY).unwrap();
    assert_eq!(client.read(OTHER, 0, 9).unwrap(), b"x");
    client.find(9, &["b", "link"]);
    let target = client.ask(request::READLINK, &[D(9)]).unwrap();
    assert_eq!(&target[2..], b"../target");
    client
        .ask(request::RENAME, &[D(9), D(ROOT), S("link2")])
        .unwrap();
    client.ask(request::REMOVE, &[D(9)]).unwrap();
    assert_eq!(
        client.ask(request::UNLINKAT, &[D(ROOT), S("b"), D(0x200)]),
        Err(Errno::NOTEMPTY)
    );
    client
        .ask(request::UNLINKAT, &[D(FID), S("fifo"), D(0)])
        .unwrap();
    client
        .ask(request::UNLINKAT, &[D(FID), S("file"), D(0)])
        .unwrap();
    client
        .ask(request::UNLINKAT, &[D(ROOT), S("b"), D(0x200)])
        .unwrap();
    assert_eq!(client.clunk(9), Err(Errno::BADF));
    let left: Vec<_> = fs::read_dir(client.host(""))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["hard"]);
}

#[test]
fn a_walk_that_fails_midway_tells_how_far_it_came_and_makes_no_fid() {
    let mut client = Client::mount();
    fs::create_dir(client.host("a")).unwrap();
    assert_eq!(
        client
            .walk(ROOT, FID, &["a", "missing", "x"])
            .unwrap()
            .len(),
        2 + 13
    );
    assert_eq!(client.clunk(FID), Err(Errno::BADF));
    assert_eq!(client.walk(ROOT, FID, &["missing"]), Err(Errno::NOENT));
    assert_eq!(client.walk(99, FID, &[]), Err(Errno::BADF));
    assert_eq!(client.walk(ROOT, ROOT, &["a"]).unwrap().len(), 2 + 13);
}

#[test]
fn nothing_leads_out_of_the_directory() {
    let mut client = Client::mount();
    fs::write(client.dir.path().join("secret"), b"secret").unwrap();
    fs::create_dir(client.host("a")).unwrap();
    symlink("..", client.host("up")).unwrap();
    symlink(client.dir.path().join("secret"), client.host("there")).unwrap();
    symlink("/", client.host("slash")).unwrap();
    // `..` stays at the root; a link is a link and no way.
    client.find(FID, &["..", "a", "..", ".."]);
    assert_eq!(client.walk(FID, OTHER, &["secret"]), Err(Errno::NOENT));
    assert_eq!(
        client.walk(ROOT, OTHER, &["up", "secret"]).unwrap().len(),
        2 + 13
    );
    assert_eq!(client.clunk(OTHER), Err(Errno::BADF));
    for name in ["../secret", "a/../../secret", "", ".", "a\0"] {
        assert_eq!(
            client.walk(ROOT, OTHER, &[name]),
            Err(Errno::INVAL),
            "{name:?}"
        );
        assert_eq!(
            client.create(ROOT, name, 0o644),
            Err(Errno::INVAL),
            "{name:?}"
        );
    }
    client.find(OTHER, &["there"]);
    assert_eq!(client.open(OTHER, RDONLY), Err(Errno::LOOP));
    assert_eq!(client.set(OTHER, 8, 0, 0), Err(Errno::LOOP));
    assert_eq!(client.set(OTHER, 1, 0o777, 0), Err(Errno::LOOP));
    let create = [D(FID), S("there"), D(WRONLY | TRUNC), D(0o644), D(0)];
    assert_eq!(client.ask(request::LCREATE, &create), Err(Errno::LOOP));
    assert_eq!(
        fs::read(client.dir.path().join("secret")).unwrap(),
        b"secret"
    );
}

#[test]
fn a_directory_swapped_for_a_link_under_a_fid_is_no_way_out() {
    let mut client = Client::mount();
    fs::write(client.dir.path().join("secret"), b"secret").unwrap();
    fs::create_dir(client.host("a")).unwrap();
    client.find(FID, &["a"]);
    fs::rename(client.host("a"), client.host("b")).unwrap();
    symlink("..", client.host("a")).unwrap();
    assert_eq!(client.walk(FID, OTHER, &["secret"]), Err(Errno::LOOP));
    assert!(client.create(FID, "new", 0o644).is_err());
    assert!(
        client
            .ask(request::UNLINKAT, &[D(FID), S("secret"), D(0)])
            .is_err()
    );
    assert!(client.dir.path().join("secret").exists());
    assert!(!client.dir.path().join("new").exists());
}

#[test]
fn fifos_and_devices_are_not_opened_and_devices_not_made() {
    let mut client = Client::mount();
    client
        .ask(
            request::MKNOD,
            &[D(ROOT), S("fifo"), D(0o010_644), D(0), D(0), D(0)],
        )
        .unwrap();
    client.find(FID, &["fifo"]);
    assert_eq!(client.open(FID, RDONLY), Err(Errno::NXIO));
    let device = [D(ROOT), S("null"), D(0o020_666), D(1), D(3), D(0)];
    assert_eq!(client.ask(request::MKNOD, &device), Err(Errno::PERM));
}
