//! Requests to a running VM: pause, resume, sample, stop.

use super::Owner;
use super::ending::Ending;
use super::ready::Readiness;
use crate::control::Responder;
use crate::identify;
use hyperfork_api::control::{Resume, Sample, Sampled, Stop};
use hyperfork_api::event::EventKind;
use hyperfork_api::{Code, Error, VmState, one_line};
use hyperfork_sys::note;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

/// How long a profile may take.
const LONGEST_SAMPLING: Duration = Duration::from_secs(60);

/// The shortest interval between samples, so that the guest makes progress between them.
const LEAST_INTERVAL: Duration = Duration::from_micros(100);

/// A profile that is being taken.
pub(super) struct Sampling {
    left: u32,
    interval: Duration,
    next: Instant,
    found: BTreeMap<u64, u32>,
    responder: Responder<Sample>,
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
        self.responder.respond(Ok(samples));
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
                self.publish(EventKind::Paused);
                self.persist_info();
                Ok(())
            }
            VmState::Paused => Err(self.wrong_state("is paused already")),
            _ => Err(self.not_ready_yet()),
        }
    }

    /// Resumes the VM. With an agent in the guest, the answer is given when the agent has set the
    /// guest's clock.
    pub(super) fn resume(&mut self, responder: Responder<Resume>) {
        if let Err(error) = self.resume_vcpus() {
            return responder.respond(Err(error));
        }
        let (Readiness::Agent, Some(vsock)) = (self.readiness(), self.machine.vsock().cloned())
        else {
            return responder.respond(Ok(()));
        };
        let name = self.info.about.name.clone();
        let patience = Duration::from_millis(self.spec.ready_timeout_ms);
        responder.respond_from_thread("resume", move || {
            identify::await_agent(&vsock, patience).map_err(|error| {
                let message =
                    format!("{name} runs again, but nothing has set its clock (see its console)");
                Error::because(Code::Guest, message, &error)
            })
        });
    }

    fn resume_vcpus(&mut self) -> Result<(), Error> {
        if self.info.status.state != VmState::Paused {
            return Err(self.wrong_state("is not paused"));
        }
        // As after a fork: the agent has to set the clock, since time has passed without the guest.
        self.machine
            .ring_doorbell()
            .map_err(|error| Error::of_any(&error))?;
        self.machine.resume();
        self.info.status.state = VmState::Running;
        self.publish(EventKind::Resumed);
        self.persist_info();
        Ok(())
    }

    fn wrong_state(&self, message: &str) -> Error {
        Error::new(
            Code::WrongState,
            format!("{} {message}", self.info.about.name),
        )
    }

    fn not_ready_yet(&self) -> Error {
        Error::new(
            Code::NotReady,
            format!("{} is not ready yet", self.info.about.name),
        )
    }

    /// Starts a profile: the vCPUs are stopped briefly at each interval, and their instruction
    /// pointers counted. The answer is given at the end; other requests are served meanwhile.
    pub(super) fn sample(&mut self, request: Sample, responder: Responder<Sample>) {
        if let Err(error) = self.can_sample(&request) {
            return responder.respond(Err(error));
        }
        let interval = Duration::from_micros(request.interval_us.into());
        self.sampling = Some(Sampling {
            left: request.count,
            interval,
            next: Instant::now() + interval,
            found: BTreeMap::new(),
            responder,
        });
    }

    fn can_sample(&self, request: &Sample) -> Result<(), Error> {
        let interval = Duration::from_micros(request.interval_us.into());
        if interval < LEAST_INTERVAL {
            let least = LEAST_INTERVAL.as_micros();
            let message = format!("samples are at least {least} µs apart");
            return Err(Error::new(Code::Invalid, message));
        }
        if interval.saturating_mul(request.count) > LONGEST_SAMPLING {
            let longest = LONGEST_SAMPLING.as_secs();
            let message = format!("sampling takes {longest} s at most");
            return Err(Error::new(Code::Invalid, message));
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
            Err(error) => sampling.responder.respond(Err(Error::of_any(&error))),
        }
    }

    pub(super) fn stop(
        &mut self,
        grace: Duration,
        responder: Option<Responder<Stop>>,
    ) -> ControlFlow<Ending> {
        self.stop_waiters.extend(responder);
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
        // The guest answers by powering off; if it does not, the deadline ends the VM.
        let asked = thread::Builder::new()
            .name("power-off".into())
            .spawn(move || {
                // What the main program has printed so far may well be its result: log it first.
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
