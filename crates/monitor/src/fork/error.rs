//! Why a VM could not be forked.

use super::MAX_CLONES;
use hyperfork_api::VmName;
use hyperfork_api::name::InvalidName;
use hyperfork_api::secret::BadSecret;
use hyperfork_host::RunDirError;
use hyperfork_vmm::machine::MachineError;
use std::io;

/// Why a VM could not be forked. The parent is unharmed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForkError {
    #[error("a fork makes 1 to {MAX_CLONES} clones, not {0}")]
    Count(u32),
    #[error("{0} is not ready yet: wait until it is running")]
    NotReady(VmName),
    #[error(
        "{name} may be forked {limit} times in its life and has been {done} times: start a new \
         one, with a higher --max-forks if so many clones may have its past in common"
    )]
    Spent { name: VmName, limit: u32, done: u32 },
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    #[error("cannot start a process for a clone")]
    Process(#[source] io::Error),
    #[error("cannot capture {name}")]
    Capture { name: VmName, source: MachineError },
    #[error(
        "{0} has no agent that could give its clones randomness and an identity of their own: \
         start it with --identical-clones to have it forked all the same"
    )]
    NoAgent(VmName),
    #[error("{0} has no agent that could take secrets")]
    NoSecrets(VmName),
    #[error(transparent)]
    Secret(#[from] BadSecret),
    /// The words are those of the clone's process.
    #[error("{name} did not come to life: {words}")]
    Clone { name: VmName, words: String },
    #[error("the fork was given up")]
    GivenUp,
}
