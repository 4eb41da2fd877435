//! Hides this process's memory from other processes.

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, dumpable_behavior, set_dumpable_behavior, setrlimit,
};
use std::fs::File;
use std::io;
use std::path::Path;

/// Keeps this process's memory, which is a guest's with all its secrets, to itself: no core
/// file is written of it, and processes of the same user can neither trace it nor look at its
/// memory, descriptors or environment in /proc. (Root can.)
///
/// # Errors
/// The kernel's.
pub fn withhold_memory() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Opens a file of this process in /proc. While memory is [withheld](withhold_memory), files that
/// only their owner may open belong to root, so this ends the withholding for a moment.
///
/// # Errors
/// As open(2).
pub fn open_own(path: &Path) -> io::Result<File> {
    match File::open(path) {
        Err(error)
            if error.kind() == io::ErrorKind::PermissionDenied
                && dumpable_behavior()? == DumpableBehavior::NotDumpable =>
        {
            set_dumpable_behavior(DumpableBehavior::Dumpable)?;
            let opened = File::open(path);
            set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
            opened
        }
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::getrlimit;

    #[test]
    fn a_process_that_withholds_its_memory_can_still_look_at_it_and_leaves_no_core() {
        withhold_memory().unwrap();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
        open_own(Path::new("/proc/self/pagemap")).unwrap();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }
}
