//! What clap does not find.

/// The arguments are well-formed, but not together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);
