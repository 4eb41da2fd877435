//! Starting a VM.

use super::handover::{Birth, Progress, Starter};
use super::record;
use super::rundir::{RunDir, RunDirError};
use crate::identity;
use crate::machine::slots;
use hyperfork_api::guest::Failure;
use hyperfork_api::secret::BadSecret;
use hyperfork_api::{Secrets, VmInfo, VmSpec};
use std::io;
use std::time::Duration;

/// A VM that is being started. Dropping it ends the VM and removes all of it.
#[derive(Debug)]
pub struct Launch {
    starter: Starter,
}

/// Why a VM did not start.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Its directory.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// Its process could not be started.
    #[error("cannot start a process for the VM")]
    Process(#[source] io::Error),
    /// It failed; the words are its own.
    #[error("{0}")]
    Failed(String),
    /// The VM is ready but its command cannot be run: 126 or 127 as exit status.
    #[error(transparent)]
    Command(Failure),
    /// Its secrets cannot be had.
    #[error(transparent)]
    Secret(#[from] BadSecret),
    /// The caller gave up.
    #[error("interrupted")]
    Interrupted,
}

/// How often a waiting launch looks whether its caller still wants it.
const POLL: Duration = Duration::from_millis(100);

/// Starts a VM: claims its name and starts its process, which boots.
///
/// # Errors
/// [`LaunchError::RunDir`] (also when the name is taken), [`LaunchError::Process`],
/// [`LaunchError::Secret`].
pub fn launch(run_dir: &RunDir, spec: &VmSpec, secrets: Secrets) -> Result<Launch, LaunchError> {
    secrets.check()?;
    let claim = run_dir.claim(&spec.name)?;
    let identity = identity::booted(&spec.name).map_err(LaunchError::Process)?;
    let info = record::born(spec, &identity, None);
    let shape = slots::shape(spec);
    let starter = Starter::spawn(run_dir, claim, &shape, false).map_err(LaunchError::Process)?;
    starter
        .boot(Birth {
            spec: spec.clone(),
            identity,
            info,
            logged: 0,
            secrets,
        })
        .map_err(LaunchError::Process)?;
    Ok(Launch { starter })
}

impl Launch {
    /// Waits until the VM is ready. From then on it lives by itself.
    ///
    /// # Errors
    /// [`LaunchError::Failed`]; the VM is then gone without a trace.
    pub fn wait_ready(self) -> Result<VmInfo, LaunchError> {
        self.wait_ready_while(|| true)
    }

    /// As [`wait_ready`](Self::wait_ready), as long as `wanted` says so; it is
    /// asked about ten times a second.
    ///
    /// # Errors
    /// [`LaunchError::Failed`], [`LaunchError::Interrupted`]; the VM is then gone.
    pub fn wait_ready_while(self, mut wanted: impl FnMut() -> bool) -> Result<VmInfo, LaunchError> {
        loop {
            if !wanted() {
                self.end();
                return Err(LaunchError::Interrupted);
            }
            if !self.starter.wait(POLL).map_err(LaunchError::Process)? {
                continue;
            }
            match self.starter.progress() {
                Progress::Shell | Progress::Running(_) => {}
                Progress::Ready { info, .. } => {
                    self.starter.release().map_err(LaunchError::Process)?;
                    self.starter.released();
                    return Ok(*info);
                }
                Progress::NoCommand(failure) => {
                    self.end();
                    return Err(LaunchError::Command(failure));
                }
                Progress::Failed(words) => {
                    self.end();
                    return Err(LaunchError::Failed(words));
                }
            }
        }
    }

    /// Ends the VM and waits until it is gone.
    fn end(self) {
        self.starter.end();
    }
}
