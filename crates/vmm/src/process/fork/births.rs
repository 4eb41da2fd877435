//! From the hand-over to clones that are ready. All come to life, or none does.

use super::super::handover::{Birth, Encoded, Progress, Starter, Steps};
use super::shells::Shell;
use super::{ForkError, Times};
use crate::machine::FirstRun;
use crate::sys::clock::Monotonic;
use hyperfork_api::{CloneReport, ForkReport, Phases, ShellSource, Strategy, VmInfo, VmName};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Clones under way, each with what its process has been told to become.
pub(super) struct Births {
    parent: VmName,
    strategy: Strategy,
    shells: Vec<Shell>,
}

impl Births {
    pub(super) fn new(parent: VmName, strategy: Strategy, shells: Vec<Shell>) -> Self {
        Self {
            parent,
            strategy,
            shells,
        }
    }

    /// How many they are.
    pub(super) fn count(&self) -> u32 {
        self.shells.len() as u32
    }

    /// Gives each process its birth and the state.
    pub(super) fn hand_over(
        &self,
        births: impl Iterator<Item = Birth>,
        state: &Encoded<'_>,
    ) -> Result<(), ForkError> {
        for (shell, birth) in self.shells.iter().zip(births) {
            let starter = &shell.starter;
            starter
                .clone_from(birth, state)
                .map_err(|error| ForkError::Clone {
                    name: starter.dir.name().clone(),
                    // Its process has ended; its own words are better than ours.
                    words: match starter.progress() {
                        Progress::Failed(words) => words,
                        _ => error.to_string(),
                    },
                })?;
        }
        Ok(())
    }

    /// Waits until all are ready, or until the first of them will never be.
    pub(super) fn wait(&self, times: &Times, timeout: Duration) -> Result<ForkReport, ForkError> {
        let deadline = Instant::now() + timeout;
        let mut clones: Vec<_> = self.shells.iter().map(Expected::new).collect();
        loop {
            let mut waiting: Vec<_> = clones
                .iter_mut()
                .filter(|clone| !clone.is_ready())
                .collect();
            let Some(first) = waiting.first() else { break };
            let starters: Vec<_> = waiting.iter().map(|clone| &clone.shell.starter).collect();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(first.failed("it did not become ready in time".to_owned()));
            }
            let reported = Starter::wait_for_any(&starters, left)
                .map_err(|error| first.failed(error.to_string()))?;
            for (clone, _) in waiting.iter_mut().zip(reported).filter(|(_, has)| *has) {
                clone.take_report()?;
            }
        }
        let reports = clones.iter().filter_map(|clone| clone.report(times));
        Ok(ForkReport {
            parent: self.parent.clone(),
            pause_us: times.pause_us,
            strategy: self.strategy,
            clones: reports.collect(),
        })
    }

    /// Lets all of them go. Gives the pages that the first has written so far.
    pub(super) fn release(self) -> Vec<Range<usize>> {
        let starters = || self.shells.iter().map(|shell| &shell.starter);
        // One that ended since it was ready is no failure of the fork.
        starters().for_each(|starter| drop(starter.release()));
        let touched: Vec<_> = starters().map(Starter::released).collect();
        touched
            .into_iter()
            .find(|touched| !touched.is_empty())
            .unwrap_or_default()
    }

    pub(super) fn end(self) {
        self.shells
            .into_iter()
            .for_each(|shell| shell.starter.end());
    }
}

/// A clone whose process has been told everything, and what it has reported since.
struct Expected<'a> {
    shell: &'a Shell,
    steps: Option<Steps>,
    /// With its steps until then.
    ready: Option<(Steps, Monotonic, Box<VmInfo>)>,
}

impl<'a> Expected<'a> {
    fn new(shell: &'a Shell) -> Self {
        Self {
            shell,
            steps: None,
            ready: None,
        }
    }

    fn is_ready(&self) -> bool {
        self.ready.is_some()
    }

    fn take_report(&mut self) -> Result<(), ForkError> {
        match self.shell.starter.progress() {
            Progress::Shell => {}
            Progress::Running(steps) => self.steps = Some(steps),
            Progress::Ready { at, info } => {
                let never_ran = || self.failed("it never ran".to_owned());
                self.ready = Some((self.steps.ok_or_else(never_ran)?, at, info));
            }
            Progress::Failed(words) => return Err(self.failed(words)),
            Progress::NoCommand(failure) => return Err(self.failed(failure.to_string())),
        }
        Ok(())
    }

    fn failed(&self, words: String) -> ForkError {
        let name = self.shell.starter.dir.name().clone();
        ForkError::Clone { name, words }
    }

    /// Once it is ready.
    fn report(&self, times: &Times) -> Option<CloneReport> {
        let (steps, ready, info) = self.ready.as_ref()?;
        Some(report(self.shell, times, *steps, *ready, info))
    }
}

fn report(
    shell: &Shell,
    times: &Times,
    steps: Steps,
    ready: Monotonic,
    info: &VmInfo,
) -> CloneReport {
    let hand_over = steps.received.us_since(times.captured);
    let got_shell = steps.received.us_since(shell.wanted);
    let got_memory = steps.memory.us_since(steps.received);
    let FirstRun {
        entered,
        exited: first_exit,
    } = steps.first_run;
    let (hand_over, shell_us, memory) = match shell.source {
        ShellSource::Pool | ShellSource::Built => (hand_over, got_shell, got_memory),
        // `fork(2)` is what was waited for, it gives the memory, and the shell comes after.
        ShellSource::Process => {
            let others = shell.wanted.us_since(times.captured);
            (others, got_memory, got_shell)
        }
    };
    CloneReport {
        name: shell.starter.dir.name().clone(),
        ip: info.ip,
        ports: info.ports.clone(),
        total_us: first_exit.us_since(times.arrival),
        ready_us: ready.us_since(times.arrival),
        shell_source: shell.source,
        phases_us: Phases {
            pause: times.paused.us_since(times.arrival),
            capture: times.captured.us_since(times.arrival),
            image: times.image_us,
            hand_over,
            shell: shell_us,
            memory,
            state: steps.state.us_since(steps.memory),
            enter: entered.us_since(steps.state),
            first_run: first_exit.us_since(entered),
            ready: ready.us_since(first_exit),
        },
    }
}
