//! An archive from a guest as files on this host.
//!
//! A guest is not trusted. Entries whose names lead elsewhere, and entries
//! through links that lead elsewhere, are refused by the tar library, which looks
//! where a path really is before it writes there; links themselves are made as
//! they are, and nothing but regular files is replaced. Nothing is kept in memory that grows with
//! the archive.

use super::checked::Checked;
use super::target;
use crate::ui;
use anyhow::{Context, bail};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use tar::{Archive, Entry, EntryType};

/// What the entries of an archive are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Root {
    /// Named files and directories.
    Named,
    /// The contents of one directory, itself included as `.`.
    Contents,
}

/// Unpacks an archive into `target` if that is a directory; otherwise its only
/// entry, with all that is below, becomes `target`, whole or not at all. A symbolic link is
/// [followed](target::resolve).
///
/// # Errors
/// The archive's, or the file system's.
pub(crate) fn unpack(archive: &mut impl Read, target: &Path) -> anyhow::Result<()> {
    let target = &target::resolve(target)?;
    if target.is_dir() {
        return entries_into(archive, target).map(drop);
    }
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let near = || format!("cannot write to {}", parent.display());
    let scratch = tempfile::Builder::new()
        .prefix(".hyperfork-cp-")
        .tempdir_in(parent)
        .with_context(near)?;
    let tree = scratch.path().join("tree");
    fs::create_dir(&tree).with_context(near)?;
    let result = match entries_into(archive, &tree)? {
        Root::Contents => tree,
        Root::Named => only_entry(&tree, target)?,
    };
    fs::rename(result, target).with_context(|| format!("cannot write {}", target.display()))
}

/// The only entry of `tree`, if it can become `target`.
fn only_entry(tree: &Path, target: &Path) -> anyhow::Result<PathBuf> {
    let paths = fs::read_dir(tree)?.map(|entry| Ok(entry?.path()));
    let paths: Vec<PathBuf> = paths.take(2).collect::<io::Result<_>>()?;
    let [entry] = paths.as_slice() else {
        bail!(
            "{} is not a directory, and there is not one file to copy",
            target.display()
        );
    };
    let is_dir = fs::symlink_metadata(entry)?.is_dir();
    if is_dir && fs::symlink_metadata(target).is_ok() {
        bail!("{} is there and is not a directory", target.display());
    }
    if !is_dir && target.as_os_str().as_encoded_bytes().ends_with(b"/") {
        bail!("{} is not a directory", target.display());
    }
    Ok(entry.clone())
}

fn entries_into(archive: &mut impl Read, directory: &Path) -> anyhow::Result<Root> {
    let mut root = Root::Named;
    let mut archive = Archive::new(Checked::new(archive));
    // Those that the last entry was in, the innermost last. Directories get their mode when
    // the archive has left them, for it may forbid to write into them.
    let mut within = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        leave(&mut within, Some(&name), directory)?;
        if name == Path::new(".") {
            root = Root::Contents;
        }
        match entry.header().entry_type() {
            EntryType::Directory => within.push((name, entry)),
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                ui::note(&format!(
                    "{} is left out: it is a device or a pipe",
                    name.display()
                ));
            }
            EntryType::Symlink
                if let Some(leads_to) = entry.link_name()?
                    && target::is_link_to(directory, &name, &leads_to) => {}
            _ => {
                target::check_entry(directory, &name)?;
                place(&mut entry, &name, directory)?;
            }
        }
    }
    leave(&mut within, None, directory)?;
    // The rest is padding.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(root)
}

/// Places the directories that an entry of this name is not in, or all.
fn leave(
    within: &mut Vec<(PathBuf, Entry<'_, impl Read>)>,
    name: Option<&Path>,
    directory: &Path,
) -> anyhow::Result<()> {
    let holds = |left: &Path| {
        let is_root = left == Path::new(".");
        name.is_some_and(|name| name != left && (is_root || name.starts_with(left)))
    };
    while let Some((left, mut entry)) = within.pop_if(|(left, _)| !holds(left)) {
        place(&mut entry, &left, directory)?;
    }
    Ok(())
}

fn place(entry: &mut Entry<'_, impl Read>, name: &Path, directory: &Path) -> anyhow::Result<()> {
    let here = || name.display().to_string();
    match entry.unpack_in(directory).with_context(here)? {
        true => Ok(()),
        false => bail!("{}: the name leads out of the archive", name.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::archive::pack;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use tar::{Builder, Header};

    /// A directory to copy from and one to copy to, with a file beside it.
    fn places() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("from"), temp.path().join("to"));
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::write(from.join("a"), "A").unwrap();
        fs::write(from.join("sub/b"), "B").unwrap();
        symlink("a", from.join("link")).unwrap();
        fs::write(temp.path().join("outside"), "untouched").unwrap();
        fs::create_dir(&to).unwrap();
        (temp, from, to)
    }

    fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
        let mut archive = Vec::new();
        pack(from, &mut archive)?;
        unpack(&mut archive.as_slice(), to)
    }

    fn read(path: impl AsRef<Path>) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_directory_goes_into_a_directory_or_becomes_one() {
        let (_temp, from, to) = places();
        copy(&from, &to).unwrap();
        assert_eq!(read(to.join("from/sub/b")), "B");
        assert_eq!(fs::read_link(to.join("from/link")).unwrap(), Path::new("a"));
        copy(&from, &to.join("new")).unwrap();
        assert_eq!(read(to.join("new/sub/b")), "B");
        // Once more, over what is there.
        fs::write(from.join("a"), "A2").unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(read(to.join("from/a")), "A2");
    }

    #[test]
    fn the_contents_of_a_directory_go_without_it() {
        let (_temp, from, to) = places();
        copy(&from.join("."), &to).unwrap();
        assert_eq!(read(to.join("sub/b")), "B");
        copy(&from.join("."), &to.join("new")).unwrap();
        assert_eq!(read(to.join("new/sub/b")), "B");
    }

    #[test]
    fn a_file_becomes_or_replaces_a_file() {
        let (_temp, from, to) = places();
        copy(&from.join("a"), &to.join("x")).unwrap();
        copy(&from.join("sub/b"), &to.join("x")).unwrap();
        assert_eq!(read(to.join("x")), "B");
        copy(&from.join("a"), &to).unwrap();
        assert_eq!(read(to.join("a")), "A");
        assert!(copy(&from.join("a"), &to.join("no/such")).is_err());
        assert!(copy(&from.join("a"), &to.join("new/")).is_err());
        assert!(copy(&from, &to.join("x")).is_err());
        assert_eq!(read(to.join("x")), "B");
        let left: Vec<_> = fs::read_dir(&to)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }

    #[test]
    fn directories_that_may_not_be_written_to_are_filled_first() {
        let (_temp, from, to) = places();
        fs::set_permissions(from.join("sub"), fs::Permissions::from_mode(0o555)).unwrap();
        copy(&from, &to).unwrap();
        let mode = fs::metadata(to.join("from/sub"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o555);
    }

    /// Files of the kinds that no copy may replace, in `directory`; gives their paths.
    fn irregular(directory: &Path) -> Vec<PathBuf> {
        let [pipe, socket, link] = ["pipe", "socket", "link"].map(|name| directory.join(name));
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).unwrap();
        std::os::unix::net::UnixListener::bind(&socket).unwrap();
        symlink("nowhere", &link).unwrap();
        vec![pipe, socket, link]
    }

    #[test]
    fn nothing_but_a_regular_file_is_replaced() {
        let (_temp, from, to) = places();
        let mut targets = irregular(&to);
        let to_pipe = to.join("to-pipe");
        symlink("pipe", &to_pipe).unwrap();
        targets.extend([to_pipe, PathBuf::from("/dev/null")]);
        for target in targets {
            let kind = fs::symlink_metadata(&target).unwrap().file_type();
            let error = copy(&from.join("a"), &target).unwrap_err();
            assert!(error.to_string().contains(" is a "), "{error:#}");
            let left = fs::symlink_metadata(&target).unwrap().file_type();
            assert_eq!(left, kind, "{}", target.display());
        }
    }

    #[test]
    fn nothing_but_regular_files_is_replaced_in_a_directory() {
        let (temp, _, to) = places();
        for path in irregular(&to) {
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let from = temp.path().join("source");
            fs::create_dir(&from).unwrap();
            fs::write(from.join(path.file_name().unwrap()), "new").unwrap();
            let error = copy(&from.join("."), &to).unwrap_err();
            assert!(error.to_string().contains(" is a "), "{error:#}");
            fs::remove_file(from.join(path.file_name().unwrap())).unwrap();
            // Nor by a link.
            symlink("elsewhere", from.join(path.file_name().unwrap())).unwrap();
            assert!(copy(&from.join("."), &to).is_err());
            assert_eq!(fs::symlink_metadata(&path).unwrap().file_type(), kind);
            fs::remove_dir_all(&from).unwrap();
        }
        assert_eq!(
            fs::read_link(to.join("link")).unwrap(),
            Path::new("nowhere")
        );
    }

    #[test]
    fn a_link_to_a_file_is_followed_and_stays() {
        let (temp, from, to) = places();
        let link = temp.path().join("link");
        fs::write(to.join("x"), "old").unwrap();
        symlink("to/x", &link).unwrap();
        copy(&from.join("a"), &link).unwrap();
        assert_eq!(read(to.join("x")), "A");
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("to/x"));
    }

    #[test]
    fn a_directory_with_links_is_copied_again_over_itself() {
        let (_temp, from, to) = places();
        copy(&from, &to).unwrap();
        fs::write(from.join("a"), "AA").unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(read(to.join("from/link")), "AA");
    }

    fn hostile(build: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn file(builder: &mut Builder<Vec<u8>>, name: &[u8], content: &[u8]) {
        let mut header = Header::new_gnu();
        // Not by `set_path`, which refuses what is tried here.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }

    fn link(builder: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, to: &str) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o777);
        builder.append_link(&mut header, name, to).unwrap();
    }

    #[test]
    fn a_hostile_archive_never_writes_outside_the_target() {
        let (temp, _, to) = places();
        let outside = temp.path().join("outside");
        let parent = temp.path().to_str().unwrap();
        let archives = [
            hostile(|tar| file(tar, b"../outside", b"hacked")),
            hostile(|tar| file(tar, b"x/../../outside", b"hacked")),
            hostile(|tar| {
                link(tar, EntryType::Symlink, "up", "..");
                file(tar, b"up/outside", b"hacked");
            }),
            hostile(|tar| {
                link(tar, EntryType::Symlink, "up", parent);
                file(tar, b"up/outside", b"hacked");
            }),
            hostile(|tar| {
                link(tar, EntryType::Symlink, "out", &format!("{parent}/outside"));
                file(tar, b"out", b"hacked");
            }),
            hostile(|tar| {
                link(tar, EntryType::Link, "out", &format!("{parent}/outside"));
                file(tar, b"out", b"hacked");
            }),
            hostile(|tar| file(tar, outside.to_str().unwrap().as_bytes(), b"hacked")),
        ];
        for archive in archives {
            for target in [to.clone(), to.join("new")] {
                // Refused, or done harmlessly.
                let _ = unpack(&mut archive.as_slice(), &target);
                assert_eq!(read(&outside), "untouched");
            }
        }
        let names = fs::read_dir(temp.path())
            .unwrap()
            .map(|e| e.unwrap().file_name());
        let mut names: Vec<_> = names.collect();
        names.sort();
        assert_eq!(names, ["from", "outside", "to"]);
    }

    #[test]
    fn an_archive_cut_short_is_an_error_and_leaves_no_half() {
        let (_temp, from, to) = places();
        let mut archive = Vec::new();
        pack(&from, &mut archive).unwrap();
        let cut = &archive[..1500];
        assert!(unpack(&mut &cut[..], &to.join("new")).is_err());
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
    }
}
