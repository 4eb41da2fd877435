//! The ways to make a VM.

use hyperfork_api::Strategy;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a VM starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Forked by frozen images.
    Image,
    /// Forked by `fork(2)` of the monitor.
    ProcessFork,
    /// Booted, to ready.
    Boot,
    /// What is left of a fork without processes, devices and messages: the image
    /// mapped into a VM built before, the state set, the guest run until it exits.
    Raw,
}

impl Method {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::ProcessFork => "process-fork",
            Self::Boot => "boot",
            Self::Raw => "raw",
        }
    }

    pub(crate) fn of(strategy: Strategy) -> Self {
        match strategy {
            Strategy::Image => Self::Image,
            Strategy::ProcessFork => Self::ProcessFork,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
