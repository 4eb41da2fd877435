//! Readiness: from the guest's first instruction to the moment from which clients may talk
//! to the guest.

use super::Owner;
use super::ending::Ending;
use crate::identify;
use crate::task::{NotReady, Task};
use hyperfork_api::event::EventKind;
use hyperfork_api::spec::{Guest, LinuxGuest};
use hyperfork_api::{Code, Error, VmState, one_line};
use hyperfork_host::agent::AgentError;
use hyperfork_host::handover::Progress;
use hyperfork_host::pool::Pool;
use hyperfork_sys::clock::Monotonic;
use hyperfork_sys::fds::FdTable;
use hyperfork_sys::{fault, note};
use std::ops::{ControlFlow, Range};
use std::thread;
use std::time::{Duration, Instant};

/// Most bytes of pages that a shell copies in advance because an earlier clone wrote to them.
const MOST_TOUCHED: usize = 8 << 20;

/// By what a guest shows that it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readiness {
    /// Its agent has taken the identity.
    Agent,
    /// It wrote to the signal port.
    Message,
    /// Its first exit from `KVM_RUN`: it runs.
    FirstExit,
}

impl Owner {
    pub(super) fn readiness(&self) -> Readiness {
        match &self.spec.guest {
            Guest::Nano { .. } => Readiness::Message,
            Guest::Linux(LinuxGuest { agent: true, .. }) => Readiness::Agent,
            Guest::Linux(_) => Readiness::FirstExit,
        }
    }

    /// Whether the VM is ready, so that clients may talk to its guest.
    pub(super) fn is_ready(&self) -> bool {
        self.info.status.state != VmState::Starting
    }

    pub(super) fn start_readiness(&mut self) {
        let timeout = Duration::from_millis(self.spec.ready_timeout_ms);
        self.deadline = Some(Instant::now() + timeout);
        if let Err(error) = fault::point("clone.identify") {
            let failed = Err(NotReady::Failed(Error::of_any(&error)));
            drop(self.tasks.send(Task::Identified(failed)));
            return;
        }
        if self.readiness() != Readiness::Agent {
            // A guest without an agent learns from the signal port alone that it is a clone.
            self.machine.guest_fork().complete_in_clone();
            return;
        }
        let (Some(vsock), Guest::Linux(guest)) = (self.machine.vsock().cloned(), &self.spec.guest)
        else {
            return;
        };
        let (identity, shares) = (self.identity.clone(), guest.shares.clone());
        let secrets = std::mem::take(&mut self.secrets);
        let is_clone = self.identity.generation > 0;
        let command = guest.command.clone().filter(|_| !is_clone);
        self.in_background("identify", move || {
            Task::Identified(
                match identify::identify(&vsock, &identity, &shares, &secrets) {
                    Err(error) => Err(NotReady::Failed(Error::because(
                        Code::Guest,
                        "the guest did not become ready",
                        &error,
                    ))),
                    Ok(()) => match command {
                        None => Ok(()),
                        Some(command) => match identify::start_main(&vsock, &command) {
                            Ok(()) => Ok(()),
                            Err(AgentError::Failed(failure)) => Err(NotReady::NoCommand(failure)),
                            Err(error) => Err(NotReady::Failed(Error::of(Code::Guest, &error))),
                        },
                    },
                },
            )
        });
    }

    /// Makes the VM reachable and reports it as ready; what the launcher does not wait for comes
    /// after the report.
    pub(super) fn ready(&mut self) {
        if self.is_ready() {
            return;
        }
        self.deadline = None;
        self.machine.guest_fork().complete_in_clone();
        let vsock = self.machine.vsock();
        let published = fault::point("clone.publish").and_then(|()| {
            vsock.map_or(Ok(()), |vsock| {
                vsock.publish(&self.claim.dir.vsock_socket())
            })
        });
        if let Err(error) = published {
            note!("the guest's sockets cannot be published: {error}");
        }
        if let Some(network) = &self.network {
            self.published.serve(network.connector());
        }
        let at = Monotonic::now();
        self.info.status.state = VmState::Running;
        let ready_us = at.us_since(self.requested);
        self.info.status.ready_us = Some(ready_us);
        if let Some(launcher) = &self.launcher {
            launcher.report(&Progress::Ready {
                at,
                info: Box::new(self.info.clone()),
            });
        }
        for waiter in self.ready_waiters.drain(..) {
            waiter.respond(Ok(()));
        }
        self.publish(EventKind::Ready { ready_us });
        self.persist_info();
        // Most clones are never forked themselves; one that is gets its pool then.
        if self.identity.generation == 0 {
            self.connect_to_pool();
        }
        self.follow_main();
    }

    /// Starts following the main program, if there is one. In a clone it may have ended before
    /// the agent took the identity; then its exit status is all there is to follow.
    fn follow_main(&self) {
        if let (true, Some(vsock)) = (self.has_main(), self.machine.vsock().cloned()) {
            let output = self.output.clone();
            self.in_background("follow", move || Task::MainEnded(output.follow(&vsock)));
        }
    }

    /// Whether the VM has a main program, running or not.
    pub(super) fn has_main(&self) -> bool {
        matches!(
            &self.spec.guest,
            Guest::Linux(LinuxGuest {
                agent: true,
                command: Some(_),
                ..
            })
        )
    }

    /// Connects to the pool, which keeps shells for clones of this VM in stock from then on.
    pub(crate) fn connect_to_pool(&self) {
        let (config, shape) = (self.config.clone(), self.machine.shape().clone());
        let tasks = self.tasks.clone();
        let connecting = thread::Builder::new().name("pool".into()).spawn(move || {
            match Pool::connect(&config, &shape) {
                Ok(None) => {}
                Ok(Some(pool)) => {
                    let _ = tasks.send(Task::Pool(pool));
                }
                Err(error) => note!("there is no pool of shells: {}", one_line(&error)),
            }
        });
        if let Err(error) = connecting {
            note!("cannot start a thread: {error}");
        }
    }

    /// The pages that this clone has written so far; later clones of its parent copy them in
    /// advance.
    pub(super) fn touched(&self) -> Vec<Range<usize>> {
        match self.identity.index {
            // One clone of each fork reports them.
            1 => self.machine.ram().written(MOST_TOUCHED).unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// Passes the memory of the last fork to the pool, whose shells preload it for the next.
    pub(super) fn preload_pool(&mut self, hint: Vec<u8>, fds: &FdTable) {
        if !self.config.settings.pool.preload {
            return;
        }
        let given = self.pool.as_ref().map(|pool| pool.preload(hint, fds));
        if let Some(Err(error)) = given {
            note!("the pool is gone: {}", one_line(&error));
            self.pool = None;
        }
    }

    pub(super) fn not_ready(&mut self, why: NotReady) -> ControlFlow<Ending> {
        ControlFlow::Break(match why {
            NotReady::Failed(error) => Ending::failed(error),
            NotReady::NoCommand(failure) => {
                let ending = Ending::failed(Error::of(Code::Guest, &failure));
                if let Some(launcher) = &self.launcher {
                    launcher.report(&Progress::NoCommand(failure));
                }
                ending
            }
        })
    }

    pub(super) fn deadline_passed(&mut self) -> ControlFlow<Ending> {
        ControlFlow::Break(if !self.is_ready() {
            let message = format!(
                "the guest did not become ready within {} s; see its console, or allow it more with --ready-timeout",
                Duration::from_millis(self.spec.ready_timeout_ms).as_secs_f64()
            );
            Ending::failed(Error::new(Code::Timeout, message))
        } else {
            Ending::stopped()
        })
    }
}
