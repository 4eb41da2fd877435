//! Errors of the command line that clap does not find.

/// Each argument is valid, but not all of them together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);
