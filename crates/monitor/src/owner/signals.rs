//! The guest's messages on its signal port ([`hyperfork_api::signal`]): "fork me", "I am
//! done".
//!
//! A VM that was just booted or cloned belongs to its launcher, which may still end it. The
//! guest's own requests wait until the launcher has released the VM.

use super::ending::Ending;
use super::ready::Readiness;
use super::{Owner, TERMINATION_GRACE};
use crate::control::Responder;
use crate::fork::{ForkError, MAX_CLONES};
use crate::task::Task;
use hyperfork_api::control::Fork;
use hyperfork_api::info::GuestForkOutcome;
use hyperfork_api::signal::{Message, Refusal};
use hyperfork_api::spec::Guest;
use hyperfork_api::{Code, Error, ForkReport};
use hyperfork_host::handover::{LaunchOutcome, VmEnd};
use hyperfork_sys::clock::Monotonic;
use std::ops::ControlFlow;

/// Most VMs in the run directory, ended ones included, up to which guests can have themselves
/// forked. It stops a fork bomb, in which every clone forks itself again; `--max-forks` is for
/// narrower limits.
const MOST_VMS: usize = 1024;

/// What the guest has asked for. It is done when the VM is released.
#[derive(Debug, Default)]
pub(super) struct GuestRequests {
    /// To be forked into so many clones.
    fork: Option<u32>,
    /// To end, since it has done the work that it was cloned for.
    end: bool,
}

impl Owner {
    pub(super) fn message(&mut self, message: Message) -> ControlFlow<Ending> {
        let by_message = !self.is_ready() && self.readiness() == Readiness::Message;
        let mut step = ControlFlow::Continue(());
        if let Message::Done(code) = message {
            // (The first message of a clone may be its result.)
            if by_message && self.identity.generation == 0 {
                return ControlFlow::Break(Ending::by_guest(format!(
                    "the guest gave up with code {code} instead of becoming ready"
                )));
            }
            step = self.work_is_done(code as i32);
        }
        if by_message {
            self.ready();
        }
        if let Message::Fork { clones, .. } = message {
            match self.is_released() {
                true => self.fork_for_guest(clones),
                false => self.guest_requests.fork = Some(clones),
            }
        }
        step
    }

    /// Whether the launcher has released the VM, which then no longer depends on it.
    pub(super) fn is_released(&self) -> bool {
        self.launcher.is_none()
    }

    /// Checks whether the launcher has released or abandoned the VM. The launcher does so before
    /// it reports the VM as ready, so a client that knows the VM never finds it unreleased.
    pub(super) fn check_launcher(&mut self) -> ControlFlow<Ending> {
        match self.launcher.as_ref().and_then(VmEnd::poll_outcome) {
            None => ControlFlow::Continue(()),
            Some(LaunchOutcome::Released) => self.released(),
            Some(LaunchOutcome::Abandoned) => {
                let error = Error::new(Code::Internal, "its launcher is gone");
                ControlFlow::Break(Ending::failed(error))
            }
        }
    }

    /// The launcher has released the VM: does what the guest has asked for meanwhile.
    fn released(&mut self) -> ControlFlow<Ending> {
        if let Some(launcher) = self.launcher.take() {
            let _ = self.tasks.send(Task::ReportTouched(launcher));
        }
        if let Some(clones) = self.guest_requests.fork.take() {
            self.fork_for_guest(clones);
        }
        match self.guest_requests.end {
            true => self.stop(TERMINATION_GRACE, None),
            false => ControlFlow::Continue(()),
        }
    }

    /// Whether a clone has sent its result. Later messages do not count: its programs may send
    /// some when they are terminated.
    pub(super) fn is_done(&self) -> bool {
        self.guest_requests.end
    }

    /// Records the guest's result. A Linux clone ends with it, as a child of `fork(2)` ends with
    /// `exit(2)`; a clone of the embedded guest waits for its next piece of work.
    fn work_is_done(&mut self, code: i32) -> ControlFlow<Ending> {
        if self.is_done() {
            return ControlFlow::Continue(());
        }
        self.main_ended(Some(code));
        self.guest_requests.end =
            self.identity.generation > 0 && matches!(self.spec.guest, Guest::Linux(_));
        match self.is_done() && self.is_released() {
            true => self.stop(TERMINATION_GRACE, None),
            false => ControlFlow::Continue(()),
        }
    }

    /// Forks the VM when all that its main program had printed before it asked is in the log.
    /// Otherwise that output would appear in each clone's log as well.
    fn fork_for_guest(&mut self, clones: u32) {
        match (self.has_main(), self.machine.vsock().cloned()) {
            (true, Some(vsock)) => {
                let output = self.output.clone();
                self.in_background("guest-fork", move || {
                    output.catch_up(&vsock);
                    Task::ForkForGuest(clones)
                });
            }
            _ => self.fork_for_guest_now(clones),
        }
    }

    pub(super) fn fork_for_guest_now(&mut self, clones: u32) {
        if let Err((why, message)) = self.may_fork_for_guest(clones) {
            self.machine.guest_fork().refuse(why);
            self.info.status.guest_fork = Some(GuestForkOutcome::Error(message));
            return;
        }
        self.machine.guest_fork().begin();
        let tasks = self.tasks.clone();
        let responder = Responder::new(move |result| {
            // The owner may be gone by then.
            let _ = tasks.send(Task::GuestForked(result));
        });
        self.fork(&Fork::new(clones), Monotonic::now(), responder);
    }

    fn may_fork_for_guest(&self, clones: u32) -> Result<(), (Refusal, String)> {
        // Its clones would power off, too.
        if self.deadline.is_some() {
            let message = format!("{} is being stopped", self.info.about.name);
            return Err((Refusal::Failed, message));
        }
        if !(1..=MAX_CLONES).contains(&clones) {
            let error = ForkError::Count(clones);
            return Err((Refusal::Count, error.to_string()));
        }
        let vms = self.config.run_dir.list().map_or(0, |vms| vms.len());
        if vms + clones as usize > MOST_VMS {
            let message = format!("there are {vms} VMs: guests may not make more than {MOST_VMS}");
            return Err((Refusal::Crowded, message));
        }
        Ok(())
    }

    /// Passes the outcome of a fork that the guest asked for to the guest.
    pub(super) fn guest_forked(&mut self, result: Result<ForkReport, Error>) {
        let status = self.machine.guest_fork();
        self.info.status.guest_fork = Some(match result {
            Ok(report) => {
                status.complete();
                GuestForkOutcome::Report(report)
            }
            Err(error) => {
                status.refuse(refusal(error.code));
                GuestForkOutcome::Error(error.to_string())
            }
        });
        self.persist_info();
    }
}

/// The reason in the form that the signal port has for it; the host's user gets the whole error.
fn refusal(code: Code) -> Refusal {
    match code {
        Code::Limit => Refusal::Spent,
        _ => Refusal::Failed,
    }
}
