//! The root file system, with writes under way.

use crate::guest::Guest;
use crate::support::User;
use crate::witness::FILES;

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

fn must_be_whole(guest: &Guest<'_>, sum: &str) {
    let written = guest.must_go_on().1["files"];
    let found = guest.sh(FROM_DISK);
    let rows = found
        .strip_prefix(sum)
        .unwrap_or_else(|| panic!("{sum}{found}"));
    let rows: Vec<_> = rows.lines().map(Row::parse).collect();
    let (newest, older) = rows.split_last().unwrap();
    assert_eq!(newest.writer, guest.name, "{found}");
    // The very last is not counted: it may have been under way.
    assert!(
        newest.last + 1 >= written,
        "{written} were written: {found}"
    );
    // Before its own there are its parent's, and nobody else's.
    assert!(older.iter().all(|row| row.writer == "p"), "{found}");
    guest.must_be_at_peace();
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
