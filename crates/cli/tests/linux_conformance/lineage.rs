//! Lines of descent: what clones inherit from their ancestors, and which VMs live on when others
//! end.

use crate::guest::Guest;
use crate::support::{User, eventually};

/// The main program: it remembers each word that it reads, and prints all of them.
const REMEMBER: &str = "mkfifo /tmp/tell; exec 3<>/tmp/tell; \
     while read word <&3; do words=\"$words $word\"; echo $words; done";

/// Where a generation leaves its name: on the disk, and in memory alone.
const FILES: &str = "/root/line /tmp/line";

#[test]
fn each_generation_finds_what_its_own_line_wrote_and_lives_on_without_it() {
    let user = User::new();
    let mut line = vec![Guest::boot(&user, "p", &["--", "sh", "-c", REMEMBER])];
    let mut names = String::from("p");
    leave(&line[0], "p");
    for generation in 1..=2 {
        let parent = line.last().unwrap();
        let mut clones = parent.fork(2);
        let (sibling, child) = (clones.remove(1), clones.remove(0));
        assert_eq!(child.info()["generation"], generation);
        assert_eq!(child.info()["parent"], parent.name.as_str());
        // Of what these two write from now on, the child sees nothing.
        leave(parent, "later");
        leave(&sibling, "aside");
        leave(&child, &child.name);
        names.extend([" ", &child.name]);
        must_have_found(&child, &names);
        must_have_found(&sibling, &names.replace(&child.name, "aside"));
        sibling.remove();
        line.push(child);
    }
    let youngest = line.pop().unwrap();
    let mut names = String::new();
    for guest in line {
        names.push_str(&format!("{} ", guest.name));
        must_have_found(&guest, &format!("{names}later"));
        guest.must_be_at_peace();
        guest.kill();
        guest.remove();
    }
    assert_eq!(user.names(), [youngest.name.as_str()]);
    leave(&youngest, "alone");
    youngest.sh("sync; echo 3 > /proc/sys/vm/drop_caches");
    must_have_found(&youngest, &format!("{names}{} alone", youngest.name));
    youngest.must_be_at_peace();
    youngest.remove();
    user.must_be_clean();
}

fn leave(guest: &Guest<'_>, word: &str) {
    guest.sh(&format!(
        "for f in {FILES} /tmp/tell; do echo {word} >> $f; done"
    ));
}

/// It has found these names, in its files and in its main program's memory, and no others.
fn must_have_found(guest: &Guest<'_>, names: &str) {
    let lines = names.replace(' ', "\n") + "\n";
    let found = guest.sh(&format!("cat {FILES}"));
    assert_eq!(found, lines.repeat(2), "{}", guest.name);
    eventually("its main program's answer", || {
        guest.log().lines().last() == Some(names)
    });
}
