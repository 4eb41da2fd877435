//! The root file system, with writes under way.

use crate::guest::Guest;
use crate::support::{User, finish};
use crate::witness::{self, FILES};
use std::fs;
use std::process::Command;

/// Of the newest files written and synced, some are under way at any moment. Of this one
/// nothing is synced: it is in the page cache, on its way, or on the disk.
const UNSYNCED: &str = "seq 1 20000 > /root/unsynced; md5sum < /root/unsynced";

/// Nothing is written any more, all that was is on the disk, and is read from there.
const FROM_DISK: &str = "killall witness; sync; mount -o remount,ro / && \
     echo 3 > /proc/sys/vm/drop_caches && md5sum < /root/unsynced && witness verify";

#[test]
fn a_disk_is_whole_and_ones_own_whatever_was_under_way_at_the_fork() {
    let user = User::new();
    let parent = Guest::boot_watched(&user, "p", &FILES);
    let sum = parent.sh(UNSYNCED);
    let clone = parent.fork(1).remove(0);
    // The parent writes on, into files of the same names; none of that is its clone's.
    parent.must_go_on();
    user.ok(&["pause", "p"]);
    must_be_whole(&clone, &sum);
    clone.remove();
    user.ok(&["resume", "p"]);
    must_be_whole(&parent, &sum);
}

/// Forks that are under way at the same time.
const FORKS: usize = 4;

/// How many clones each of them makes, where that is more than one.
const CLONES: &str = "HYPERFORK_TEST_DISK_CLONES";

/// Of a fork: where many write at once, none of them has much of a processor.
const PATIENCE: &str = "20m";

/// Nor is it a fault of theirs then that nothing has happened for 21 s.
const UNHURRIED: &str = "rcupdate.rcu_cpu_stall_timeout=300";

/// Nothing is written any more, and all that was is on the disk.
const SETTLED: &str = "killall witness; sync; mount -o remount,ro /";

#[test]
fn the_disks_of_clones_forked_at_once_while_files_are_written_are_clean_and_each_its_own() {
    let user = User::new();
    let each: usize = std::env::var(CLONES).map_or(1, |count| count.parse().unwrap());
    let parent = Guest::boot_watched_with(&user, "p", &FILES, &["--append", UNHURRIED]);
    let before = parent.must_go_on().1["files"];
    let count = each.to_string();
    let forks: Vec<_> = (0..FORKS)
        .map(|fork| {
            let prefix = format!("c{fork}");
            user.start(&[
                "fork",
                "p",
                "-n",
                &count,
                "--quiet",
                "--name-prefix",
                &prefix,
                "--ready-timeout",
                PATIENCE,
            ])
        })
        .collect();
    for fork in forks {
        let ended = finish(fork);
        assert_eq!(ended.status, 0, "{ended:?}");
    }
    let clones: Vec<_> = (0..FORKS)
        .flat_map(|fork| (1..=each).map(move |number| format!("c{fork}-{number}")))
        .collect();
    // All of them wrote until now; from here on each has the processors for itself.
    for clone in &clones {
        user.ok(&["pause", clone]);
    }
    let after = parent.must_go_on().1["files"];
    parent.kill();
    let mut rows = Vec::new();
    for name in &clones {
        user.ok(&["resume", name]);
        let clone = parent.relative(name);
        clone.sh(SETTLED);
        rows.push(must_be_clean_outside(&user, &clone));
        clone.must_be_at_peace();
        clone.remove();
    }
    println!(
        "{} clones, the parent wrote files {before} to {after} meanwhile; every disk clean: {rows:?}",
        clones.len(),
    );
}

/// Takes its disk out, and looks at it with the tools of the host; gives how far its
/// parent had come at the fork.
fn must_be_clean_outside(user: &User, guest: &Guest<'_>) -> u64 {
    let (image, copy) = (user.path("image"), user.path("copy"));
    let image_text = image.to_str().unwrap();
    user.ok(&["cp", &format!("{}:/dev/vda", guest.name), image_text]);
    let checked = Command::new("e2fsck").args(["-fn", image_text]).output();
    let checked = checked.unwrap();
    assert!(checked.status.success(), "{}: {checked:?}", guest.name);
    fs::create_dir(&copy).unwrap();
    let dump = format!("rdump /root/files {}", copy.display());
    let dumped = Command::new("debugfs")
        .args(["-R", &dump, image_text])
        .output();
    assert!(dumped.unwrap().status.success());
    let verify = Command::new(witness::program())
        .arg("verify")
        .arg(copy.join("files"))
        .output();
    let found = String::from_utf8(verify.unwrap().stdout).unwrap();
    assert!(
        !found.contains("BAD") && !found.is_empty(),
        "{}: {found}",
        guest.name
    );
    fs::remove_dir_all(copy).unwrap();
    fs::remove_file(image).unwrap();
    let rows: Vec<_> = found.lines().map(Row::parse).collect();
    must_be_of_one_past(&rows, guest, &found);
    let parents = rows.iter().rfind(|row| row.writer == "p");
    parents.map_or(0, |row| row.last)
}

fn must_be_whole(guest: &Guest<'_>, sum: &str) {
    let written = guest.must_go_on().1["files"];
    let found = guest.sh(FROM_DISK);
    let rows = found
        .strip_prefix(sum)
        .unwrap_or_else(|| panic!("{sum}{found}"));
    let rows: Vec<_> = rows.lines().map(Row::parse).collect();
    let newest = rows.last().unwrap();
    assert_eq!(newest.writer, guest.name, "{found}");
    // The very last is not counted: it may have been under way.
    assert!(
        newest.last + 1 >= written,
        "{written} were written: {found}"
    );
    must_be_of_one_past(&rows, guest, &found);
    guest.must_be_at_peace();
}

/// The guest's own rows follow its parent's, and there are no others.
fn must_be_of_one_past(rows: &[Row<'_>], guest: &Guest<'_>, found: &str) {
    let (newest, older) = rows.split_last().unwrap();
    assert!(
        [guest.name.as_str(), "p"].contains(&newest.writer),
        "{found}"
    );
    assert!(older.iter().all(|row| row.writer == "p"), "{found}");
}

/// Files of one writer, one after the other, as the witness finds them.
struct Row<'a> {
    writer: &'a str,
    last: u64,
}

impl<'a> Row<'a> {
    fn parse(line: &'a str) -> Self {
        let words: Vec<_> = line.split(' ').collect();
        Self {
            writer: words[0],
            last: words[2].parse().unwrap(),
        }
    }
}
