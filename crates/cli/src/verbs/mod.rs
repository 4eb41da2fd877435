//! The verbs. Each returns an exit status or an error.

pub(crate) mod bench;
pub(crate) mod cp;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod fork;
pub(crate) mod image;
pub(crate) mod inspect;
mod launch;
pub(crate) mod logs;
mod network;
pub(crate) mod ps;
pub(crate) mod run;
pub(crate) mod tree;
pub(crate) mod vms;

pub(crate) use self::fork::fork as fork_vm;
pub(crate) use self::image::{NANO, ensure as ensure_image};
pub(crate) use self::launch::{boot, free_name_like, host_memory};
pub(crate) use self::run::linux_from;

use std::time::Duration;

/// A duration in the unit of requests.
fn milliseconds(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}
