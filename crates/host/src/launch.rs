//! Starting a VM.

use crate::config::Config;
use crate::handover::{LauncherEnd, NewVm, Progress};
use crate::run_dir::RunDirError;
use crate::{identity, record};
use hyperfork_api::guest::Failure;
use hyperfork_api::secret::BadSecret;
use hyperfork_api::spec::SpecError;
use hyperfork_api::{Error, Secrets, VmInfo, VmSpec};
use hyperfork_state::Shape;
use hyperfork_sys::clock::Monotonic;
use std::io;
use std::time::Duration;

/// A VM that is being started. Dropping it ends and removes the VM.
#[derive(Debug)]
pub struct Launch {
    launcher: LauncherEnd,
}

/// Why a VM did not start.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Its directory cannot be made.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// Its process could not be started.
    #[error("cannot start a process for the VM")]
    Process(#[source] io::Error),
    /// The VM failed; the error is its own.
    #[error(transparent)]
    Failed(#[from] Error),
    /// The VM is ready but its command cannot be run: 126 or 127 as exit status.
    #[error(transparent)]
    Command(Failure),
    /// The specification is not valid.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The secrets are not valid.
    #[error(transparent)]
    Secret(#[from] BadSecret),
    /// The caller gave up.
    #[error("interrupted")]
    Interrupted,
}

/// How often a launch asks its caller whether to go on waiting.
const POLL: Duration = Duration::from_millis(100);

/// Starts a VM: claims its name and starts its process, which boots.
///
/// # Errors
/// [`LaunchError::RunDir`] (also when the name is taken), [`LaunchError::Process`],
/// [`LaunchError::Secret`].
pub fn launch(config: &Config, spec: &VmSpec, secrets: Secrets) -> Result<Launch, LaunchError> {
    let requested = Monotonic::now();
    spec.check()?;
    secrets.check()?;
    let claim = config.run_dir.claim(&spec.name)?;
    let identity = identity::booted(&spec.name).map_err(LaunchError::Process)?;
    let info = record::initial_info(spec, &identity, None);
    let shape = Shape::of(spec);
    let launcher =
        LauncherEnd::spawn(config, claim, &shape, false).map_err(LaunchError::Process)?;
    launcher
        .boot(NewVm {
            requested,
            spec: spec.clone(),
            identity,
            info,
            logged: 0,
            secrets,
        })
        .map_err(LaunchError::Process)?;
    Ok(Launch { launcher })
}

impl Launch {
    /// Waits until the VM is ready, and releases it.
    ///
    /// # Errors
    /// [`LaunchError::Failed`]; the VM is then removed.
    pub fn wait_ready(self) -> Result<VmInfo, LaunchError> {
        self.wait_ready_while(|| true)
    }

    /// As [`wait_ready`](Self::wait_ready), as long as `wanted` returns true; it is called about
    /// ten times a second.
    ///
    /// # Errors
    /// [`LaunchError::Failed`], [`LaunchError::Interrupted`]; the VM is then removed.
    pub fn wait_ready_while(self, mut wanted: impl FnMut() -> bool) -> Result<VmInfo, LaunchError> {
        loop {
            if !wanted() {
                self.end();
                return Err(LaunchError::Interrupted);
            }
            if !self.launcher.wait(POLL).map_err(LaunchError::Process)? {
                continue;
            }
            match self.launcher.progress() {
                Progress::Shell | Progress::Running(_) => {}
                Progress::Ready { info, .. } => {
                    self.launcher.release().map_err(LaunchError::Process)?;
                    return Ok(*info);
                }
                Progress::NoCommand(failure) => {
                    self.end();
                    return Err(LaunchError::Command(failure));
                }
                Progress::Failed(error) => {
                    self.end();
                    return Err(LaunchError::Failed(error));
                }
            }
        }
    }

    /// Ends the VM and waits until it is removed.
    fn end(self) {
        self.launcher.end();
    }
}
