//! Refilling the stock: one thread, which holds no lock while it talks to a shell.

use super::stock::{Job, Stock, Stocked};
use crate::config::Config;
use crate::handover::{LauncherEnd, Progress};
use hyperfork_api::Error;
use hyperfork_state::Shape;
use hyperfork_sys::{note, process};
use std::io;
use std::time::Duration;

/// How long a process may take to build its shell; usually it takes 8 ms.
const BUILD_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a shell could not be built.
#[derive(Debug, thiserror::Error)]
enum NoShell {
    #[error("no directory can be made for it")]
    RunDir(#[from] crate::run_dir::RunDirError),
    #[error("its process cannot be started or waited for")]
    Process(#[from] io::Error),
    #[error(transparent)]
    Failed(Error),
    #[error("its process does not answer")]
    Silent,
    #[error("its process reports what makes no sense now: {0:?}")]
    Unexpected(Progress),
}

impl Stock {
    /// Builds missing shells one after the other, until no client has been connected for
    /// a while.
    pub(super) fn build(&self, config: &Config) {
        loop {
            match self.next_job() {
                Job::Close => return,
                Job::End(shells) => drop(shells),
                Job::Wait(longest) => self.rest(longest),
                Job::Build(key) => match self.shell(config, &key.shape) {
                    Ok(launcher) => {
                        let preloaded = None;
                        let shell = Stocked {
                            launcher,
                            preloaded,
                        };
                        self.done(key, Some(shell));
                    }
                    Err(error) => {
                        let error = hyperfork_api::one_line(&error);
                        note!("a shell cannot be built: {error}");
                        self.failed(key);
                    }
                },
                Job::Preload(key, mut shell, preload) => {
                    let hint = preload.hint.to_vec();
                    shell.preloaded = Some(preload.number);
                    // A shell that does not take the order has ended, or is stopped (SIGSTOP).
                    let given = shell.launcher.preload(hint, &preload.fds);
                    self.done(key, given.is_ok().then_some(shell));
                }
            }
        }
    }

    /// Starts a process and waits until it has built its shell.
    fn shell(&self, config: &Config, shape: &Shape) -> Result<LauncherEnd, NoShell> {
        let claim = config.run_dir.nameless()?;
        let launcher = LauncherEnd::spawn(config, claim, shape, true)?;
        self.building(&launcher);
        match built(&launcher) {
            Ok(()) => Ok(launcher),
            Err(error) => {
                // Removes its directory as well, should the process have been killed.
                launcher.end();
                Err(error)
            }
        }
    }
}

fn built(launcher: &LauncherEnd) -> Result<(), NoShell> {
    // `Stock::lost` does not know of a process that was stopped before `Stock::building`.
    if launcher.pid().is_some_and(process::stands_still) || !launcher.wait(BUILD_TIMEOUT)? {
        return Err(NoShell::Silent);
    }
    match launcher.progress() {
        Progress::Shell => Ok(()),
        Progress::Failed(error) => Err(NoShell::Failed(error)),
        other => Err(NoShell::Unexpected(other)),
    }
}
