//! Fault points: named steps at which a test can make a process fail.
//!
//! Each step of a capture, a hand-over and a restore begins with a [`point`]. In builds with
//! debug assertions, which are those that tests use, a point looks into the file `.faults` in
//! the run directory of its process; in all others it is nothing. The file reaches parent,
//! clones and pool alike, whichever process started them, and can be changed while they live.
//!
//! ```text
//! capture.freeze ENOSPC       each time
//! handover.order kill 2       the second time that a process gets there
//! shells.spawn stop pid=77    in this process only
//! clone.record kill not=77    in all others
//! ```
//!
//! A point that strikes writes its name to `.faults.struck`, so a test can tell that the process
//! got there.

#[cfg(debug_assertions)]
mod armed;

use std::io;
use std::path::Path;

/// The file that arms points, in the run directory.
pub const FILE: &str = ".faults";

/// The file with the names of points that have struck, in the run directory.
pub const STRUCK: &str = ".faults.struck";

/// Whether points can strike in this build.
pub fn are_built() -> bool {
    cfg!(debug_assertions)
}

/// Has the points of this process strike as a file in `run_dir` says.
#[inline]
pub fn arm_from(run_dir: &Path) {
    #[cfg(debug_assertions)]
    armed::arm_from(run_dir);
    #[cfg(not(debug_assertions))]
    let _ = run_dir;
}

/// A step that can be made to fail. The name is the party or the part, a dot, and the step.
///
/// # Errors
/// What the test wants.
#[inline]
pub fn point(name: &'static str) -> io::Result<()> {
    #[cfg(debug_assertions)]
    return armed::reach(name);
    #[cfg(not(debug_assertions))]
    {
        let _ = name;
        Ok(())
    }
}
