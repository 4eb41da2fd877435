//! The errors of the cache and of builds. They refer to each other: an artifact is missing because
//! its build failed, or a build failed because one of its inputs is missing.

use crate::{HostError, ToolError};
use std::io;
use std::path::{Path, PathBuf};

/// Why an artifact cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A file operation failed.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The disk is full, or would become so.
    #[error(
        "not enough disk space to build {title}: it needs {needed_mib} MiB and {path} has \
         {free_mib} MiB left; make room or set XDG_CACHE_HOME to a directory elsewhere"
    )]
    DiskFull {
        /// What was to be built.
        title: String,
        /// The cache's root.
        path: PathBuf,
        /// Space the build needs, MiB.
        needed_mib: u64,
        /// Space there was, MiB.
        free_mib: u64,
    },
    /// The build failed.
    #[error("cannot build {title}")]
    Build {
        /// What was to be built.
        title: String,
        /// Why.
        #[source]
        source: BuildError,
    },
    /// This machine lacks something.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl CacheError {
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }
}

/// Whether an error means that there is no space to write.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Why an artifact could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A tool failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A file operation of ours failed.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The machine lacks something.
    #[error(transparent)]
    Host(#[from] HostError),
    /// An artifact it is made from could not be had.
    #[error(transparent)]
    Input(#[from] Box<CacheError>),
}

impl BuildError {
    /// For `map_err`: the operation that failed and on what.
    pub fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }

    /// Whether the disk was full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Tool(error) => matches!(error, ToolError::DiskFull { .. }),
            Self::File { source, .. } => is_disk_full(source),
            Self::Host(_) | Self::Input(_) => false,
        }
    }
}
