//! The guests that the experiments boot and fork.

use crate::error::BenchError;
use hyperfork_api::spec::{self, LinuxGuest};
use hyperfork_api::{Bytes, VmName, VmSpec};
use hyperfork_nano::Work;

/// How long a guest may take to become ready.
const READY_TIMEOUT_MS: u64 = 300_000;

/// The embedded guest's name, as of an image.
pub const NANO: &str = "nano";

/// The memory that the embedded guest does not fill: the first 2 MiB, which hold its
/// program.
const NANO_NEEDS_MIB: u64 = 2;

/// What runs in the VMs of an experiment.
#[derive(Debug, Clone)]
pub enum Guest {
    /// The embedded guest, with the options that each experiment needs.
    Nano,
    /// A Linux image.
    Linux {
        /// The image's name.
        image: String,
        /// What is booted.
        guest: Box<LinuxGuest>,
    },
}

impl Guest {
    /// The image's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Nano => NANO,
            Self::Linux { image, .. } => image,
        }
    }

    /// A VM of it; `options` are for the embedded guest.
    pub(crate) fn spec(&self, name: VmName, cpus: u8, memory_mib: u64, options: &str) -> VmSpec {
        VmSpec {
            name,
            cpus,
            memory: Bytes::mib(memory_mib),
            guest: match self {
                Self::Nano => spec::Guest::Nano {
                    options: options.to_owned(),
                },
                Self::Linux { guest, .. } => spec::Guest::Linux((**guest).clone()),
            },
            image: self.name().to_owned(),
            max_forks: None,
            identical_clones: false,
            ready_timeout_ms: READY_TIMEOUT_MS,
        }
    }
}

/// The pages that a nano guest of so much memory fills and marks.
///
/// # Errors
/// [`BenchError::Touched`], [`BenchError::DirtyPages`].
pub(crate) fn work(
    memory_mib: u64,
    touched_mib: Option<u64>,
    dirty_pages: u64,
) -> Result<Work, BenchError> {
    let touched_mib = touched(memory_mib, touched_mib)?;
    let pages = touched_mib << 8;
    if dirty_pages > pages {
        return Err(BenchError::DirtyPages {
            dirty_pages,
            touched_mib,
        });
    }
    Ok(Work::new(pages, dirty_pages))
}

/// How many MiB a nano guest of so much memory fills: as asked for, or all it can.
///
/// # Errors
/// [`BenchError::Touched`].
pub(crate) fn touched(memory_mib: u64, touched_mib: Option<u64>) -> Result<u64, BenchError> {
    let most_mib = memory_mib.saturating_sub(NANO_NEEDS_MIB);
    let touched_mib = touched_mib.unwrap_or(most_mib);
    if touched_mib > most_mib {
        return Err(BenchError::Touched {
            memory_mib,
            touched_mib,
            most_mib,
        });
    }
    Ok(touched_mib)
}

/// The pages each doorbell makes such a guest write: a few more than asked for, since
/// they are spread evenly.
pub(crate) fn marked(work: &Work) -> u64 {
    work.all().filter(|(_, marked)| *marked).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_fills_what_it_does_not_need_itself_and_no_more() {
        assert_eq!(touched(64, None).unwrap(), 62);
        assert_eq!(touched(64, Some(4)).unwrap(), 4);
        assert!(matches!(
            touched(64, Some(63)),
            Err(BenchError::Touched { most_mib: 62, .. })
        ));
        let work = work(64, Some(4), 100).unwrap();
        assert_eq!((work.pages, marked(&work)), (1024, 103));
        assert!(matches!(
            super::work(64, Some(1), 257),
            Err(BenchError::DirtyPages { .. })
        ));
    }
}
