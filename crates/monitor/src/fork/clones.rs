//! From the hand-over to clones that are ready.

use super::ForkError;
use super::shells::Shell;
use hyperfork_api::{
    CloneFailure, CloneReport, Code, Error, ForkReport, Phases, ShellSource, Strategy, VmInfo,
    VmName,
};
use hyperfork_host::handover::{LauncherEnd, NewVm, Progress, Steps};
use hyperfork_sys::clock::Monotonic;
use hyperfork_sys::fault;
use hyperfork_sys::fds::FdTable;
use std::ops::Range;
use std::time::{Duration, Instant};

/// When the parent was paused and captured.
pub(super) struct Times {
    pub(super) arrival: Monotonic,
    /// When the parent's vCPUs had stopped.
    pub(super) paused: Monotonic,
    /// When the parent was captured and had resumed.
    pub(super) captured: Monotonic,
    /// How long the parent was paused.
    pub(super) pause_us: u64,
    /// How long freezing its memory took.
    pub(super) image_us: u64,
}

/// The clones of one fork.
pub(super) struct Clones {
    parent: VmName,
    strategy: Strategy,
    clones: Vec<Clone>,
    /// Clones for which no process could be started.
    missing: Vec<CloneFailure>,
}

/// A clone that is being made.
struct Clone {
    shell: Shell,
    steps: Option<Steps>,
    outcome: Option<Outcome>,
}

/// What became of a clone.
enum Outcome {
    Ready(Monotonic, Box<VmInfo>),
    /// The error that its process reported.
    Failed(Error),
}

/// How long a clone may take to report the pages that it has written.
const TOUCHED: Duration = Duration::from_secs(2);

impl Clones {
    pub(super) fn new(
        parent: VmName,
        strategy: Strategy,
        shells: Vec<Shell>,
        missing: Vec<CloneFailure>,
    ) -> Self {
        let clones = shells.into_iter().map(Clone::new).collect();
        Self {
            parent,
            strategy,
            clones,
            missing,
        }
    }

    pub(super) fn none(parent: VmName, strategy: Strategy) -> Self {
        Self::new(parent, strategy, Vec::new(), Vec::new())
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &VmName> {
        self.clones.iter().map(Clone::name)
    }

    /// Sends each process its order and the captured state.
    ///
    /// # Errors
    /// [`ForkError::Clone`] for the first clone that cannot take it; with `best_effort`, none.
    pub(super) fn hand_over(
        &mut self,
        new: Vec<NewVm>,
        state: &[u8],
        fds: &FdTable,
        best_effort: bool,
    ) -> Result<(), ForkError> {
        for (clone, new) in self.clones.iter_mut().zip(new) {
            if let Err(error) = clone.shell.launcher.clone_from(new, state, fds) {
                // Its process has ended: prefer the error that it reported.
                let error = match clone.shell.launcher.last_report() {
                    Some(Progress::Failed(error)) => error,
                    _ => Error::of_any(&error),
                };
                if !best_effort {
                    return Err(clone.failed(error));
                }
                clone.outcome = Some(Outcome::Failed(error));
            }
        }
        Ok(())
    }

    /// Waits until all clones are ready or one has failed; with `best_effort`, until the outcome
    /// of every clone is known.
    pub(super) fn wait(&mut self, timeout: Duration, best_effort: bool) -> Result<(), ForkError> {
        let deadline = Instant::now() + timeout;
        loop {
            let mut waiting: Vec<_> = self.clones.iter_mut().filter(|c| c.is_pending()).collect();
            if waiting.is_empty() {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let launchers: Vec<_> = waiting.iter().map(|clone| &clone.shell.launcher).collect();
            let reported = match left.is_zero() {
                true => Ok(vec![false; waiting.len()]),
                false => fault::point("fork.wait")
                    .and_then(|()| LauncherEnd::wait_for_any(&launchers, left)),
            };
            let reported = reported.map_err(|error| waiting[0].failed(Error::of_any(&error)))?;
            for (clone, has_reported) in waiting.iter_mut().zip(reported) {
                if has_reported {
                    clone.take_report();
                } else if left.is_zero() {
                    let error = Error::new(Code::Timeout, "it did not become ready in time");
                    clone.outcome = Some(Outcome::Failed(error));
                }
                if let (false, Some(Outcome::Failed(error))) = (best_effort, &clone.outcome) {
                    return Err(clone.failed(error.clone()));
                }
            }
        }
        Ok(())
    }

    fn report(&self, times: &Times) -> ForkReport {
        let clones: Vec<_> = self.clones.iter().filter_map(|c| c.report(times)).collect();
        let failed = self.clones.iter().filter_map(|clone| match &clone.outcome {
            Some(Outcome::Failed(error)) => Some((clone, error)),
            _ => None,
        });
        let failed = failed.map(|(clone, error)| CloneFailure {
            name: clone.name().clone(),
            error: error.to_string(),
        });
        ForkReport {
            parent: self.parent.clone(),
            pause_us: times.pause_us,
            strategy: self.strategy,
            clones,
            failed: failed.chain(self.missing.iter().cloned()).collect(),
        }
    }

    /// Releases the clones that are ready and ends the others. A clone that has ended by then is
    /// reported as failed.
    ///
    /// # Errors
    /// [`ForkError::Clone`] for a clone that cannot be released; with `best_effort`, only if no
    /// clone can be released.
    pub(super) fn release(
        &mut self,
        times: &Times,
        best_effort: bool,
    ) -> Result<ForkReport, ForkError> {
        for clone in &mut self.clones {
            if let Some(Outcome::Ready(..)) = clone.outcome
                && let Err(error) = clone.shell.launcher.release()
            {
                let error = Error::of_any(&error);
                if !best_effort {
                    return Err(clone.failed(error));
                }
                clone.outcome = Some(Outcome::Failed(error));
            }
        }
        let report = self.report(times);
        let is_ready = |clone: &mut Clone| matches!(clone.outcome, Some(Outcome::Ready(..)));
        let failed: Vec<_> = self
            .clones
            .extract_if(.., |clone| !is_ready(clone))
            .collect();
        LauncherEnd::end_all(failed.into_iter().map(|clone| clone.shell.launcher));
        Ok(report)
    }

    /// The pages that the first clone has written so far.
    pub(super) fn touched(&self) -> Vec<Range<usize>> {
        let first = self.clones.first();
        first.map_or_else(Vec::new, |clone| clone.shell.launcher.touched(TOUCHED))
    }

    /// Ends all clones.
    pub(super) fn end(&mut self) {
        LauncherEnd::end_all(self.clones.drain(..).map(|clone| clone.shell.launcher));
    }
}

impl Clone {
    fn new(shell: Shell) -> Self {
        Self {
            shell,
            steps: None,
            outcome: None,
        }
    }

    fn name(&self) -> &VmName {
        self.shell.launcher.dir().name()
    }

    /// Whether the outcome of the clone is not known yet.
    fn is_pending(&self) -> bool {
        self.outcome.is_none()
    }

    fn take_report(&mut self) {
        self.outcome = match self.shell.launcher.progress() {
            Progress::Shell => None,
            Progress::Running(steps) => {
                self.steps = Some(steps);
                None
            }
            Progress::Ready { .. } if self.steps.is_none() => {
                let error = Error::new(Code::Internal, "it never ran");
                Some(Outcome::Failed(error))
            }
            Progress::Ready { at, info } => Some(Outcome::Ready(at, info)),
            Progress::Failed(error) => Some(Outcome::Failed(error)),
            Progress::NoCommand(failure) => Some(Outcome::Failed(Error::of(Code::Guest, &failure))),
        };
    }

    fn failed(&self, source: Error) -> ForkError {
        let name = self.name().clone();
        ForkError::Clone { name, source }
    }

    /// The clone's part of the report, if it is ready.
    fn report(&self, times: &Times) -> Option<CloneReport> {
        let (Some(steps), Some(Outcome::Ready(ready, info))) = (self.steps, &self.outcome) else {
            return None;
        };
        let hand_over = steps.received.us_since(times.captured);
        let got_shell = steps.received.us_since(self.shell.wanted);
        let got_memory = steps.memory.us_since(steps.received);
        let (hand_over, shell, memory) = match self.shell.source {
            ShellSource::Pool | ShellSource::Built => (hand_over, got_shell, got_memory),
            // Here `fork(2)` comes first and gives the memory; the shell is built around it afterwards.
            ShellSource::Process => {
                let others = self.shell.wanted.us_since(times.captured);
                (others, got_memory, got_shell)
            }
        };
        Some(CloneReport {
            name: self.name().clone(),
            ip: info.status.ip,
            ports: info.status.ports.clone(),
            total_us: steps.exited.us_since(times.arrival),
            ready_us: ready.us_since(times.arrival),
            shell_source: self.shell.source,
            phases_us: Phases {
                pause: times.paused.us_since(times.arrival),
                capture: times.captured.us_since(times.arrival),
                image: times.image_us,
                hand_over,
                shell,
                memory,
                state: steps.state.us_since(steps.memory),
                enter: steps.entered.us_since(steps.state),
                first_run: steps.exited.us_since(steps.entered),
                ready: ready.us_since(steps.exited),
            },
        })
    }
}
