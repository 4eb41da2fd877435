//! What the guest says on its signal port ([`hyperfork_api::signal`]): fork me, I am
//! done.
//!
//! A VM that was just started, or cloned, belongs to whoever did so. What its guest
//! wants for itself waits until it is released: until then it may have to be undone.

use super::ending::Ending;
use super::ready::Readiness;
use super::{Owner, TERMINATION_GRACE};
use crate::control::Answer;
use crate::fork::{ForkError, MAX_CLONES};
use crate::task::Task;
use hyperfork_api::control::Fork;
use hyperfork_api::info::GuestForkOutcome;
use hyperfork_api::signal::{Message, Refusal};
use hyperfork_api::spec::Guest;
use hyperfork_api::{Code, Error, ForkReport};
use hyperfork_host::handover::{LetGo, VmEnd};
use hyperfork_sys::clock::Monotonic;
use std::ops::ControlFlow;

/// Most VMs in the run directory, ended ones included, up to which guests can have
/// clones made. It ends a guest that forks for ever, itself and all its clones;
/// `--max-forks` is for narrower limits.
const MOST_VMS: usize = 1024;

/// What the guest wants for itself.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// So many clones, as soon as the VM is released.
    fork: Option<u32>,
    /// To end, having done the work that it was cloned for.
    end: bool,
}

impl Owner {
    pub(super) fn message(&mut self, message: Message) -> ControlFlow<Ending> {
        let by_message = !self.is_ready() && self.readiness() == Readiness::Message;
        let mut step = ControlFlow::Continue(());
        if let Message::Done(code) = message {
            // (A clone may be done with its first word.)
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
                false => self.wishes.fork = Some(clones),
            }
        }
        step
    }

    /// Whether the VM lives by itself: the launcher has seen it ready.
    pub(super) fn is_released(&self) -> bool {
        self.launcher.is_none()
    }

    /// Sees whether the launcher has let go of the VM. Requests that come after that find it
    /// done: the launcher's word is in the socket before anybody knows that the VM is ready.
    pub(super) fn look_for_release(&mut self) -> ControlFlow<Ending> {
        match self.launcher.as_ref().and_then(VmEnd::let_go) {
            None => ControlFlow::Continue(()),
            Some(LetGo::Released) => self.released(),
            Some(LetGo::Abandoned) => {
                let error = Error::new(Code::Internal, "its launcher is gone");
                ControlFlow::Break(Ending::failed(error))
            }
        }
    }

    /// From now on the VM lives by itself.
    fn released(&mut self) -> ControlFlow<Ending> {
        if let Some(launcher) = self.launcher.take() {
            let _ = self.tasks.send(Task::ReportTouched(launcher));
        }
        if let Some(clones) = self.wishes.fork.take() {
            self.fork_for_guest(clones);
        }
        match self.wishes.end {
            true => self.stop(TERMINATION_GRACE, None),
            false => ControlFlow::Continue(()),
        }
    }

    /// Whether the guest has said its last word, after which nothing counts: what
    /// its programs say when they are ended is no result.
    pub(super) fn is_done(&self) -> bool {
        self.wishes.end
    }

    /// Notes the result. A clone ends with that, as a process of `fork(2)` ends with
    /// `exit(2)`; one of the embedded guest waits for the next piece of work.
    fn work_is_done(&mut self, code: i32) -> ControlFlow<Ending> {
        if self.is_done() {
            return ControlFlow::Continue(());
        }
        self.main_ended(Some(code));
        self.wishes.end =
            self.identity.generation > 0 && matches!(self.spec.guest, Guest::Linux(_));
        match self.is_done() && self.is_released() {
            true => self.stop(TERMINATION_GRACE, None),
            false => ControlFlow::Continue(()),
        }
    }

    /// First has what the guest's main program has printed before it asked logged: it
    /// waits, and would else print it again in each clone's log.
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
        if let Err((why, words)) = self.may_fork_for_guest(clones) {
            self.machine.guest_fork().refuse(why);
            self.info.status.guest_fork = Some(GuestForkOutcome::Error(words));
            return;
        }
        self.machine.guest_fork().begin();
        let tasks = self.tasks.clone();
        let answer = Answer::new(move |result| {
            // The owner may be gone by then.
            let _ = tasks.send(Task::GuestForked(result));
        });
        self.fork(&Fork::new(clones), Monotonic::now(), answer);
    }

    fn may_fork_for_guest(&self, clones: u32) -> Result<(), (Refusal, String)> {
        // Its clones would power off, too.
        if self.deadline.is_some() {
            let words = format!("{} is being stopped", self.info.about.name);
            return Err((Refusal::Failed, words));
        }
        if !(1..=MAX_CLONES).contains(&clones) {
            let error = ForkError::Count(clones);
            return Err((Refusal::Count, error.to_string()));
        }
        let vms = self.config.run_dir.list().map_or(0, |vms| vms.len());
        if vms + clones as usize > MOST_VMS {
            let words = format!("there are {vms} VMs: guests may not make more than {MOST_VMS}");
            return Err((Refusal::Crowded, words));
        }
        Ok(())
    }

    /// All clones that the guest asked for live, or there is none.
    pub(super) fn guest_forked(&mut self, result: Result<ForkReport, Error>) {
        let told = self.machine.guest_fork();
        self.info.status.guest_fork = Some(match result {
            Ok(report) => {
                told.complete();
                GuestForkOutcome::Report(report)
            }
            Err(error) => {
                told.refuse(refusal(error.code));
                GuestForkOutcome::Error(error.to_string())
            }
        });
        self.keep();
    }
}

/// What the guest is told; who runs it is told more.
fn refusal(code: Code) -> Refusal {
    match code {
        Code::Limit => Refusal::Spent,
        _ => Refusal::Failed,
    }
}
