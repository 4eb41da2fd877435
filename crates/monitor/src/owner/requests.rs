//! What a VM that is there can be asked.

use super::Owner;
use super::ending::Ending;
use super::ready::Readiness;
use crate::identify;
use hyperfork_api::control::{Reply, Sampled};
use hyperfork_api::{VmState, one_line};
use hyperfork_sys::note;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::mpsc::Sender;
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
    reply: Sender<Reply>,
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
        let _ = self.reply.send(Reply::Samples(samples));
    }
}

impl Owner {
    pub(super) fn pause(&mut self) -> Reply {
        match self.info.state {
            VmState::Running => {
                let paused = self.machine.pause();
                if let Err(error) = paused.check() {
                    return Reply::Error(one_line(&error));
                }
                paused.stay();
                self.info.state = VmState::Paused;
                self.keep();
                Reply::Ok
            }
            VmState::Paused => Reply::Error(format!("{} is paused already", self.info.name)),
            _ => Reply::Error(format!("{} is not ready yet", self.info.name)),
        }
    }

    /// Where the guest has an agent, the answer comes from there: when its clock is right.
    pub(super) fn resume(&mut self, reply: &Sender<Reply>) -> Option<Reply> {
        if self.info.state != VmState::Paused {
            let words = format!("{} is not paused", self.info.name);
            return Some(Reply::Error(words));
        }
        // As after a fork: something has happened to the guest, time has passed without it.
        if let Err(error) = self.machine.ring_doorbell() {
            return Some(Reply::Error(one_line(&error)));
        }
        self.machine.resume();
        self.info.state = VmState::Running;
        self.keep();
        let (Readiness::Agent, Some(vsock)) = (self.readiness(), self.machine.vsock().cloned())
        else {
            return Some(Reply::Ok);
        };
        let (reply, name) = (reply.clone(), self.info.name.clone());
        let patience = Duration::from_millis(self.spec.ready_timeout_ms);
        let waiting = thread::Builder::new().name("resume".into()).spawn(move || {
            let _ = reply.send(match identify::await_agent(&vsock, patience) {
                Ok(()) => Reply::Ok,
                Err(error) => Reply::Error(format!(
                    "{name} runs again, but nothing has set its clock: {error}; see its console"
                )),
            });
        });
        waiting.err().map(|error| Reply::Error(error.to_string()))
    }

    /// Begins to stop the vCPUs for a moment, again and again, and to note where they are.
    /// The answer goes to `reply` at the end; other requests are served meanwhile.
    ///
    /// # Errors
    /// Why it is not begun.
    pub(super) fn sample(
        &mut self,
        count: u32,
        interval_us: u32,
        reply: Sender<Reply>,
    ) -> Result<(), String> {
        let interval = Duration::from_micros(interval_us.into());
        if interval < LEAST_INTERVAL {
            let least = LEAST_INTERVAL.as_micros();
            return Err(format!("samples are at least {least} µs apart"));
        }
        if interval.saturating_mul(count) > LONGEST_SAMPLING {
            let longest = LONGEST_SAMPLING.as_secs();
            return Err(format!("sampling takes {longest} s at most"));
        }
        if self.info.state == VmState::Paused {
            return Err(format!("{} is paused", self.info.name));
        }
        if self.sampling.is_some() {
            return Err(format!("{} is being sampled already", self.info.name));
        }
        self.sampling = Some(Sampling {
            left: count,
            interval,
            next: Instant::now() + interval,
            found: BTreeMap::new(),
            reply,
        });
        Ok(())
    }

    /// Takes one sample, or ends the profile.
    pub(super) fn take_sample(&mut self) {
        let Some(mut sampling) = self.sampling.take() else {
            return;
        };
        if sampling.left == 0 || self.info.state == VmState::Paused {
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
            Err(error) => drop(sampling.reply.send(Reply::Error(one_line(&error)))),
        }
    }

    pub(super) fn stop(
        &mut self,
        grace: Duration,
        reply: Option<Sender<Reply>>,
    ) -> ControlFlow<Ending> {
        self.stop_waiters.extend(reply);
        let asks_guest = self.readiness() == Readiness::Agent && self.launcher.is_none();
        let (true, false, Some(vsock)) =
            (asks_guest, grace.is_zero(), self.machine.vsock().cloned())
        else {
            return ControlFlow::Break(Ending::stopped());
        };
        if self.info.state == VmState::Paused {
            self.machine.resume();
            self.info.state = VmState::Running;
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
                    note!("the guest does not power off: {error}");
                }
            });
        match asked {
            Ok(_) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(Ending::stopped()),
        }
    }
}
