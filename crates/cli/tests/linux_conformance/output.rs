//! The output of a guest's main program.

use crate::guest::Guest;
use crate::support::{User, eventually};

/// What is in a log of the witness: which clone it is, as soon as it knew, and from and
/// to which number it has counted without a gap; no numbers are 0 to 0.
struct Said {
    who: Vec<String>,
    first: u64,
    last: u64,
}

impl Said {
    fn by(guest: &Guest<'_>) -> Self {
        let log = guest.log();
        // The last line may be under way.
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let (who, numbers): (Vec<_>, Vec<_>) =
            whole.lines().partition(|line| line.starts_with("I am"));
        let numbers: Vec<u64> = numbers.iter().map(|line| line.parse().unwrap()).collect();
        let first = numbers.first().copied().unwrap_or_default();
        let last = numbers.last().copied().unwrap_or_default();
        assert!(numbers.is_empty() || (first..=last).eq(numbers), "{log}");
        let who = who.into_iter().map(str::to_owned).collect();
        Self { who, first, last }
    }

    /// As soon as it has counted beyond `number`.
    fn beyond(number: u64, guest: &Guest<'_>) -> Self {
        eventually("more numbers", || Self::by(guest).last > number);
        Self::by(guest)
    }
}

#[test]
fn what_the_main_program_says_is_in_the_parents_and_each_clones_log_without_a_gap() {
    let user = User::new();
    let script = "until test -x /usr/bin/witness; do usleep 100000; done; exec witness notice";
    let parent = Guest::boot(&user, "p", &["--", "sh", "-c", script]);
    Said::beyond(5, &parent);
    let clones = parent.fork(2);
    let at_fork = Said::by(&parent).last;
    for (clone, index) in clones.iter().zip(1..) {
        let said = Said::beyond(at_fork + 5, clone);
        // What it said long before its agent knew who it is, is there; what was in its
        // parent's log is not.
        assert_eq!(said.who, [format!("I am {index}")]);
        let begin = said.first;
        assert!(1 < begin && begin <= at_fork + 1, "{begin} after {at_fork}");
    }
    let said = Said::beyond(at_fork + 5, &parent);
    assert_eq!((said.who, said.first), (vec!["I am 0".to_owned()], 1));

    // A clone's clone goes on where the clone's log was, by the other strategy, too.
    let in_clone = Said::by(&clones[0]).last;
    user.ok(&["fork", "p-1", "--strategy", "process-fork", "-q"]);
    let grandchild = parent.relative("p-1-1");
    let begin = Said::beyond(in_clone, &grandchild).first;
    assert!(begin > in_clone, "{begin} after {in_clone}");
}
