//! What a VM that is there can be asked.

use super::Owner;
use super::ending::Ending;
use super::ready::Readiness;
use crate::control::Answer;
use crate::identify;
use hyperfork_api::control::{Resume, Sample, Sampled, Stop};
use hyperfork_api::event::What;
use hyperfork_api::{Code, Error, VmState, one_line};
use hyperfork_sys::note;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

/// How long a profile may take.
const LONGEST_SAMPLING: Duration = Duration::from_secs(60);

/// Samples are at least so far apart, so that the guest gets on between them.
const LEAST_INTERVAL: Duration = Duration::from_micros(100);

/// A profile that is being taken.
pub(super) struct Sampling {
    left: u32,
    interval: Duration,
    next: Instant,
    found: BTreeMap<u64, u32>,
    answer: Answer<Sample>,
}

impl Sampling {
    /// When the next sample is due.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    fn end(self) {
        let found = self.found.into_iter();
        let mut samples: Vec<_> = found.map(|(rip, count)| Sampled { rip, count }).collect();
        samples.sort_by_key(|sampled| Reverse(sampled.count));
        self.answer.give(Ok(samples));
    }
}

impl Owner {
    pub(super) fn pause(&mut self) -> Result<(), Error> {
        match self.info.status.state {
            VmState::Running => {
                let paused = self.machine.pause();
                paused.check().map_err(|error| Error::of_any(&error))?;
                paused.stay();
                self.info.status.state = VmState::Paused;
                self.tell(What::Paused);
                self.keep();
                Ok(())
            }
            VmState::Paused => Err(self.wrong_state("is paused already")),
            _ => Err(self.not_ready_yet()),
        }
    }

    /// Where the guest has an agent, the answer comes from there: when its clock is right.
    pub(super) fn resume(&mut self, answer: Answer<Resume>) {
        if let Err(error) = self.resume_vcpus() {
            return answer.give(Err(error));
        }
        let (Readiness::Agent, Some(vsock)) = (self.readiness(), self.machine.vsock().cloned())
        else {
            return answer.give(Ok(()));
        };
        let name = self.info.about.name.clone();
        let patience = Duration::from_millis(self.spec.ready_timeout_ms);
        answer.give_on_a_thread("resume", move || {
            identify::await_agent(&vsock, patience).map_err(|error| {
                let words =
                    format!("{name} runs again, but nothing has set its clock (see its console)");
                Error::because(Code::Guest, words, &error)
            })
        });
    }

    fn resume_vcpus(&mut self) -> Result<(), Error> {
        if self.info.status.state != VmState::Paused {
            return Err(self.wrong_state("is not paused"));
        }
        // As after a fork: something has happened to the guest, time has passed without it.
        self.machine
            .ring_doorbell()
            .map_err(|error| Error::of_any(&error))?;
        self.machine.resume();
        self.info.status.state = VmState::Running;
        self.tell(What::Resumed);
        self.keep();
        Ok(())
    }

    fn wrong_state(&self, words: &str) -> Error {
        Error::new(
            Code::WrongState,
            format!("{} {words}", self.info.about.name),
        )
    }

    fn not_ready_yet(&self) -> Error {
        Error::new(
            Code::NotReady,
            format!("{} is not ready yet", self.info.about.name),
        )
    }

    /// Begins to stop the vCPUs for a moment, again and again, and to note where they are.
    /// The answer is given at the end; other requests are served meanwhile.
    pub(super) fn sample(&mut self, request: Sample, answer: Answer<Sample>) {
        if let Err(error) = self.can_sample(&request) {
            return answer.give(Err(error));
        }
        let interval = Duration::from_micros(request.interval_us.into());
        self.sampling = Some(Sampling {
            left: request.count,
            interval,
            next: Instant::now() + interval,
            found: BTreeMap::new(),
            answer,
        });
    }

    fn can_sample(&self, request: &Sample) -> Result<(), Error> {
        let interval = Duration::from_micros(request.interval_us.into());
        if interval < LEAST_INTERVAL {
            let least = LEAST_INTERVAL.as_micros();
            let words = format!("samples are at least {least} µs apart");
            return Err(Error::new(Code::Invalid, words));
        }
        if interval.saturating_mul(request.count) > LONGEST_SAMPLING {
            let longest = LONGEST_SAMPLING.as_secs();
            let words = format!("sampling takes {longest} s at most");
            return Err(Error::new(Code::Invalid, words));
        }
        if self.info.status.state == VmState::Paused {
            return Err(self.wrong_state("is paused"));
        }
        match self.sampling {
            Some(_) => Err(self.wrong_state("is being sampled already")),
            None => Ok(()),
        }
    }

    /// Takes one sample, or ends the profile.
    pub(super) fn take_sample(&mut self) {
        let Some(mut sampling) = self.sampling.take() else {
            return;
        };
        if sampling.left == 0 || self.info.status.state == VmState::Paused {
            return sampling.end();
        }
        match self.machine.instruction_pointers() {
            Ok(pointers) => {
                for rip in pointers {
                    *sampling.found.entry(rip).or_default() += 1;
                }
                sampling.left -= 1;
                sampling.next = Instant::now() + sampling.interval;
                self.sampling = Some(sampling);
            }
            Err(error) => sampling.answer.give(Err(Error::of_any(&error))),
        }
    }

    pub(super) fn stop(
        &mut self,
        grace: Duration,
        answer: Option<Answer<Stop>>,
    ) -> ControlFlow<Ending> {
        self.stop_waiters.extend(answer);
        let asks_guest = self.readiness() == Readiness::Agent && self.is_ready();
        let (true, false, Some(vsock)) =
            (asks_guest, grace.is_zero(), self.machine.vsock().cloned())
        else {
            return ControlFlow::Break(Ending::stopped());
        };
        if self.info.status.state == VmState::Paused {
            self.machine.resume();
            self.info.status.state = VmState::Running;
        }
        self.deadline = Some(Instant::now() + grace);
        let output = self.has_main().then(|| self.output.clone());
        // Its answer is the guest's end; without one the deadline decides.
        let asked = thread::Builder::new()
            .name("power-off".into())
            .spawn(move || {
                // Its last words are those before that, which may well be its result.
                if let Some(output) = output {
                    output.catch_up(&vsock);
                }
                if let Err(error) = identify::power_off(&vsock) {
                    note!("the guest does not power off: {}", one_line(&error));
                }
            });
        match asked {
            Ok(_) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(Ending::stopped()),
        }
    }
}
