//! Why an experiment could not be done.

use hyperfork_host::{ClientError, LaunchError, RunDirError};
use hyperfork_vmm::kvm::KvmError;
use hyperfork_vmm::machine::MachineError;
use std::io;
use std::path::PathBuf;

/// Why an experiment could not be done.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The user interrupted the experiment. What was measured is in the file.
    #[error("interrupted")]
    Interrupted,
    /// Figures of different hosts are no comparison.
    #[error(
        "{path} is of another host ({theirs}), this is {ours}: results of different hosts cannot be compared"
    )]
    OtherHost {
        /// The file.
        path: PathBuf,
        /// Its host.
        theirs: String,
        /// This one.
        ours: String,
    },
    /// Only the same program can continue a result.
    #[error(
        "{path} is unfinished and of another build or setting ({theirs}), this is {ours}: name another file, or remove it"
    )]
    OtherProgram {
        /// The file.
        path: PathBuf,
        /// Its host and program.
        theirs: String,
        /// These.
        ours: String,
    },
    /// The unfinished result is one of other options.
    #[error(
        "{path} is unfinished and was begun with other options: use those, name another file, or remove it"
    )]
    OtherPlan {
        /// The file.
        path: PathBuf,
    },
    /// It is something else, which must not be overwritten.
    #[error("{path} is not a result of `hyperfork bench {bench}`: name another file")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The experiment.
        bench: &'static str,
    },
    /// What is to be measured makes no sense.
    #[error(
        "a guest of {memory_mib} MiB can fill {most_mib} MiB of them, not {touched_mib}: lower --touched-mib"
    )]
    Touched {
        /// The guest's memory.
        memory_mib: u64,
        /// What was asked for.
        touched_mib: u64,
        /// What the embedded guest leaves.
        most_mib: u64,
    },
    /// More pages than there are.
    #[error("{dirty_pages} pages cannot be written in {touched_mib} MiB: lower --dirty-pages")]
    DirtyPages {
        /// What was asked for.
        dirty_pages: u64,
        /// All that the guest has filled.
        touched_mib: u64,
    },
    /// Not on this host, now.
    #[error(
        "this needs {needed_mib} MiB of memory and {available_mib} are available: measure smaller guests"
    )]
    Memory {
        /// What one VM may take.
        needed_mib: u64,
        /// What there is.
        available_mib: u64,
    },
    /// Only the embedded guest can do this.
    #[error("{0} needs the embedded guest: use --guest nano")]
    OnlyNano(&'static str),
    /// The guest did not do what it should.
    #[error("{vm} did not say {what} in time")]
    Silent {
        /// The VM.
        vm: String,
        /// What it should have said.
        what: &'static str,
    },
    /// A VM did not start.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A VM could not be asked, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Where VMs are found.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// A name for a VM.
    #[error(transparent)]
    Name(#[from] hyperfork_api::name::InvalidName),
    /// A machine of this very process.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// KVM, in this very process.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// A file or another thing of the system.
    #[error("cannot {action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A plot could not be drawn.
    #[error("cannot draw {path}: {message}")]
    Plot {
        /// The plot.
        path: PathBuf,
        /// The library's message.
        message: String,
    },
}

impl BenchError {
    /// Names the file that an operation failed on.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// Whether the options were wrong, rather than anything else.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Touched { .. } | Self::DirtyPages { .. } | Self::OnlyNano(_)
        )
    }

    /// Whether it concerns one row only: the others can still be measured.
    pub(crate) fn is_of_a_row(&self) -> bool {
        !matches!(
            self,
            Self::Interrupted | Self::Launch(LaunchError::Interrupted) | Self::Io { .. }
        )
    }
}
