//! What a VM that is there can be asked.

use super::super::identify;
use super::Owner;
use super::ending::Ending;
use super::ready::Readiness;
use crate::one_line;
use hyperfork_api::VmState;
use hyperfork_api::control::{Reply, Sampled};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

/// How long a profile may take.
const LONGEST_SAMPLING: Duration = Duration::from_secs(60);

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

    /// Stops the vCPUs for a moment, again and again, and notes where they are. The
    /// owner does nothing else meanwhile, so it is bounded.
    pub(super) fn sample(&mut self, count: u32, interval_us: u32) -> Reply {
        let total = Duration::from_micros(u64::from(count) * u64::from(interval_us));
        if total > LONGEST_SAMPLING {
            return Reply::Error(format!(
                "sampling takes {} s at most",
                LONGEST_SAMPLING.as_secs()
            ));
        }
        if self.info.state == VmState::Paused {
            return Reply::Error(format!("{} is paused", self.info.name));
        }
        let mut found = BTreeMap::<u64, u32>::new();
        for _ in 0..count {
            thread::sleep(Duration::from_micros(interval_us.into()));
            match self.machine.instruction_pointers() {
                Ok(pointers) => pointers
                    .into_iter()
                    .for_each(|rip| *found.entry(rip).or_default() += 1),
                Err(error) => return Reply::Error(one_line(&error)),
            }
        }
        let mut samples: Vec<Sampled> = found
            .into_iter()
            .map(|(rip, count)| Sampled { rip, count })
            .collect();
        samples.sort_by_key(|sampled| Reverse(sampled.count));
        Reply::Samples(samples)
    }

    pub(super) fn stop(
        &mut self,
        grace: Duration,
        reply: Option<Sender<Reply>>,
    ) -> ControlFlow<Ending> {
        self.stop_waiters.extend(reply);
        let asks_guest = self.readiness() == Readiness::Agent && self.started.is_none();
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
                    eprintln!("the guest does not power off: {error}");
                }
            });
        match asked {
            Ok(_) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(Ending::stopped()),
        }
    }
}
