//! What the host kernel offers, wrapped once: every raw pointer and system call
//! of the monitor is in here, behind a safe function that argues why.

pub mod clock;
pub mod fds;
pub mod fork;
pub mod kick;
pub mod mapping;
pub mod memfd;
pub mod pagemap;
pub mod sched;
pub mod scm;
pub mod signals;
pub mod tap;
pub mod userfault;
