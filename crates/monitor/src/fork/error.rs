//! Why a VM could not be forked.

use super::MAX_CLONES;
use hyperfork_api::name::InvalidName;
use hyperfork_api::secret::BadSecret;
use hyperfork_api::{Code, Error, VmName};
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
    /// The clone's process reported the error.
    #[error("{name} did not come to life")]
    Clone { name: VmName, source: Error },
    #[error("the fork was given up")]
    GivenUp,
    #[error("the client that asked for the fork is gone")]
    NotAwaited,
}

impl From<&ForkError> for Error {
    fn from(error: &ForkError) -> Self {
        let code = match error {
            ForkError::Count(_) | ForkError::Name(_) | ForkError::Secret(_) => Code::Invalid,
            ForkError::NotReady(_) => Code::NotReady,
            ForkError::Spent { .. } => Code::Limit,
            ForkError::RunDir(RunDirError::InUse { .. }) => Code::InUse,
            ForkError::NoAgent(_) | ForkError::NoSecrets(_) => Code::NoAgent,
            ForkError::Clone { source, .. } => source.code,
            ForkError::RunDir(_) | ForkError::Process(_) | ForkError::Capture { .. } => {
                return Self::of_any(error);
            }
            ForkError::GivenUp | ForkError::NotAwaited => Code::Internal,
        };
        Self::of(code, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_is_told_has_a_code_and_every_cause() {
        let name = VmName::new("p-1").expect("a name");
        let full = io::Error::from_raw_os_error(28);
        let error = ForkError::RunDir(RunDirError::Io {
            action: "make",
            path: "/run/p-1".into(),
            source: full,
        });
        let error = Error::from(&error);
        assert_eq!(error.code, Code::Host);
        assert!(error.to_string().contains("No space left"), "{error}");

        let source = Error::because(Code::Guest, "the guest did not become ready", &error);
        let error = ForkError::Clone { name, source };
        let error = Error::from(&error);
        assert_eq!(error.code, Code::Guest);
        let message = "p-1 did not come to life: the guest did not become ready: cannot make /run/p-1: No space left";
        assert!(error.to_string().starts_with(message), "{error}");
    }
}
