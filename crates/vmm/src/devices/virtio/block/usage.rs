//! Counters of a disk's storage on the host. They can be read without waiting for a request, which
//! may take the host's disk long.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A disk's storage on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of storage of the layers that clones share.
    pub shared: u64,
    /// Bytes of storage of the private layer.
    pub private: u64,
    /// Set if requests failed because of the host: why the latest did.
    pub error: Option<String>,
}

/// The counters behind [`Usage`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    size: AtomicU64,
    shared: AtomicU64,
    private: AtomicU64,
    /// Locked for no longer than it takes to copy it.
    failures: Mutex<Failures>,
}

/// Requests that failed because of the host.
#[derive(Debug, Default)]
struct Failures {
    count: u64,
    latest: String,
}

impl Counters {
    pub(super) fn of_size(size: u64) -> Self {
        Self {
            size: size.into(),
            ..Self::default()
        }
    }

    pub(super) fn usage(&self) -> Usage {
        let failures = self.failures();
        Usage {
            size: self.size.load(Ordering::Relaxed),
            shared: self.shared.load(Ordering::Relaxed),
            private: self.private.load(Ordering::Relaxed),
            error: (failures.count > 0).then(|| match failures.count {
                1 => format!("a request failed: {}", failures.latest),
                count => format!("{count} requests failed, the latest: {}", failures.latest),
            }),
        }
    }

    pub(super) fn set_shared(&self, bytes: u64) {
        self.shared.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn set_private(&self, bytes: u64) {
        self.private.store(bytes, Ordering::Relaxed);
    }

    /// The private layer is frozen.
    pub(super) fn share(&self) {
        let bytes = self.private.swap(0, Ordering::Relaxed);
        self.shared.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn note_failure(&self, error: &io::Error) {
        let mut failures = self.failures();
        failures.count += 1;
        failures.latest = error.to_string();
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
