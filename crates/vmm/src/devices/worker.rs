//! The device thread: one per VM, for all of its virtio devices.
//!
//! ```text
//!                                                  spawn()
//!                                                     │ attach(devices)
//!                               pause()               ▼
//!               RUNNING ────────────────────────>  AT REST
//!                  │    <────────────────────────     │
//!                  │     resume(): every device's     │
//!                  │     resume() comes first         │
//!                  └────────> STOPPED <───────────────┘
//!                        (drop, or a failure)
//! ```
//!
//! A thread that fails reports it at once, and counts as at rest from then on.
//!
//! At rest the thread does not touch guest memory. Requests that the driver has queued but the
//! thread has not seen stay in their rings, which are guest memory: parent and clone both find
//! them when they resume. The same holds for a request that the thread was in the middle of: it is
//! again the next one of its ring, and its progress is part of the device's state.
//!
//! How long a pause waits does not depend on how many requests are queued: it
//! [preempts](super::turns::Preemption) the device at work, which returns after its current piece.

use super::confinement::FileAccess;
use super::virtio::transport::{MmioTransport, Slot};
use crate::sys::epoll::{Epoll, EventFlags};
use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// The devices that the thread serves, shared with the MMIO bus.
pub type Devices = Vec<Arc<Slot>>;

/// What the thread is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Serve the devices.
    Running,
    /// Rest.
    Paused,
    /// End.
    Stopped,
}

/// The device thread. Dropping it ends the thread.
///
/// A child made by `fork(2)` does not have the thread, so it must forget the value, not drop it.
pub struct DeviceWorker {
    control: Arc<Control>,
    thread: Option<JoinHandle<()>>,
}

struct Control {
    phase: Mutex<Phase>,
    /// What the thread has to serve; it takes this when it first runs.
    work: Mutex<Option<(Devices, Sources)>>,
    changed: Condvar,
    /// Wakes the thread while it waits for events.
    wake: EventFd,
    /// Makes the device at work return.
    preempt: Arc<AtomicBool>,
    /// Called when the thread has failed.
    fault_reporter: OnceLock<FaultReporter>,
}

type FaultReporter = Box<dyn Fn(String) + Send + Sync>;

struct Phase {
    wanted: Mode,
    /// The thread touches nothing until `wanted` changes.
    at_rest: bool,
    /// Why the thread has failed, if it has.
    failure: Option<Failure>,
}

/// Why the device thread has failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the device thread {0}")]
struct Failure(String);

impl DeviceWorker {
    /// Starts the thread, paused and without devices, confined ([`seccomp`](crate::sys::seccomp))
    /// to what devices with this access to files need.
    ///
    /// # Errors
    /// When the process is out of descriptors or threads, or the host's kernel cannot
    /// confine them.
    pub fn spawn(files: FileAccess) -> io::Result<Self> {
        let confinement = files.confinement()?;
        Self::spawn_confined(move || confinement.enter())
    }

    /// The same, where the thread first confines itself by `confine`.
    fn spawn_confined(
        confine: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let control = Arc::new(Control {
            phase: Mutex::new(Phase {
                wanted: Mode::Paused,
                at_rest: true,
                failure: None,
            }),
            work: Mutex::new(None),
            changed: Condvar::new(),
            wake: EventFd::new(EFD_NONBLOCK)?,
            preempt: Arc::default(),
            fault_reporter: OnceLock::new(),
        });
        let thread = thread::Builder::new().name("devices".into()).spawn({
            let control = control.clone();
            move || main(&control, confine)
        })?;
        Ok(Self {
            control,
            thread: Some(thread),
        })
    }

    /// Gives the paused thread its devices. If the thread can no longer serve them, it calls
    /// `fault`, at most once.
    ///
    /// # Errors
    /// When the process is out of descriptors, or the thread could not be confined.
    pub fn attach(
        &self,
        devices: Devices,
        fault: impl Fn(String) + Send + Sync + 'static,
    ) -> io::Result<()> {
        let sources = Sources::of(&devices, &self.control.wake)?;
        for device in &devices {
            device.lock().pause_by(self.control.preempt.clone());
        }
        *self.control.work() = Some((devices, sources));
        if self.control.fault_reporter.set(Box::new(fault)).is_err() {
            unreachable!("a shell becomes a machine once");
        }
        // A failure before this is returned here; a later one is reported to `fault`.
        match self.control.phase().failure.clone() {
            None => Ok(()),
            Some(failure) => Err(io::Error::other(failure)),
        }
    }

    /// Asks the thread to come to rest; [`pause`](Self::pause) waits for it.
    pub fn begin_pause(&self) {
        self.control.want(Mode::Paused);
    }

    /// Brings the thread to rest; one that has ended counts as at rest. Returns whether it came to
    /// rest within `most`.
    pub fn pause(&self, most: Duration) -> bool {
        self.begin_pause();
        let (phase, changed) = (self.control.phase(), &self.control.changed);
        let waited = changed.wait_timeout_while(phase, most, |phase| !phase.at_rest);
        let (phase, _) = waited.unwrap_or_else(PoisonError::into_inner);
        phase.at_rest
    }

    /// Lets the thread run. It first looks at every ring once, so no notification that came
    /// during the pause is lost.
    pub fn resume(&self) {
        self.control.want(Mode::Running);
    }
}

impl Drop for DeviceWorker {
    fn drop(&mut self) {
        self.control.want(Mode::Stopped);
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Control {
    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) -> MutexGuard<'_, Option<(Devices, Sources)>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn want(&self, mode: Mode) {
        let mut phase = self.phase();
        if phase.wanted != Mode::Stopped {
            phase.wanted = mode;
        }
        // Set under the lock, so that a pause right after a resume cannot mistake the rest before
        // the resume for its own. A thread that has ended stays at rest.
        if phase.wanted == Mode::Running {
            phase.at_rest = false;
        }
        self.preempt
            .store(phase.wanted != Mode::Running, Ordering::SeqCst);
        self.changed.notify_all();
        // Fails only if the eventfd's counter is at its limit: then the thread is awake.
        let _ = self.wake.write(1);
    }

    /// On the device thread: rests while that is wanted. Returns whether it rested; `None` when
    /// the thread has to end.
    fn checkpoint(&self) -> Option<Rested> {
        let mut rested = Rested(false);
        let mut phase = self.phase();
        while phase.wanted == Mode::Paused {
            rested = Rested(true);
            phase.at_rest = true;
            self.changed.notify_all();
            phase = self
                .changed
                .wait(phase)
                .unwrap_or_else(PoisonError::into_inner);
        }
        phase.at_rest = false;
        (phase.wanted == Mode::Running).then_some(rested)
    }

    /// Marks the thread as ended, which counts as at rest, and reports a failure.
    fn end(&self, failure: Option<Failure>) {
        {
            let mut phase = self.phase();
            phase.wanted = Mode::Stopped;
            phase.at_rest = true;
            phase.failure = failure.clone();
            self.changed.notify_all();
        }
        if let (Some(failure), Some(report)) = (failure, self.fault_reporter.get()) {
            report(failure.to_string());
        }
    }
}

struct Rested(bool);

/// The event sources that the thread waits for.
struct Sources(Epoll);

/// What an event is about, encoded as the number that it carries in the epoll set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Wake,
    Queue { device: usize, queue: usize },
    Host { device: usize },
}

impl Token {
    const WAKE: u64 = u64::MAX;
    const HOST: u64 = u32::MAX as u64;

    fn encode(self) -> u64 {
        match self {
            Self::Wake => Self::WAKE,
            Self::Queue { device, queue } => (device as u64) << 32 | queue as u64,
            Self::Host { device } => (device as u64) << 32 | Self::HOST,
        }
    }

    fn decode(number: u64) -> Self {
        let device = (number >> 32) as usize;
        match (number, number & 0xffff_ffff) {
            (Self::WAKE, _) => Self::Wake,
            (_, Self::HOST) => Self::Host { device },
            (_, queue) => Self::Queue {
                device,
                queue: queue as usize,
            },
        }
    }
}

impl Sources {
    fn of(devices: &Devices, wake: &EventFd) -> io::Result<Self> {
        let sources = Self(Epoll::new()?);
        sources.0.add_event(wake, Token::Wake.encode())?;
        for (device, transport) in devices.iter().enumerate() {
            let transport = transport.lock();
            for queue in 0..transport.queue_count() {
                let token = Token::Queue { device, queue }.encode();
                sources.0.add_event(transport.queue_event(queue), token)?;
            }
            if let Some(events) = transport.host_events() {
                let token = Token::Host { device }.encode();
                sources.0.add(events, token, EventFlags::IN)?;
            }
        }
        Ok(sources)
    }
}

/// The thread's main function.
fn main(control: &Control, confine: impl FnOnce() -> io::Result<()>) {
    let served = catch_unwind(AssertUnwindSafe(|| {
        confine().map_err(|error| Failure(format!("cannot be confined: {error}")))?;
        run(control)
    }));
    let panicked = |panic: Box<dyn Any + Send>| {
        let message = panic_message(&*panic);
        Err(Failure(format!("panicked: {message}")))
    };
    control.end(served.unwrap_or_else(panicked).err());
}

fn run(control: &Control) -> Result<(), Failure> {
    // The thread begins paused: this waits until it has its devices and may run.
    if control.checkpoint().is_none() {
        return Ok(());
    }
    let Some((devices, sources)) = control.work().take() else {
        return Ok(());
    };
    // The first time round counts as a rest, however short it was: the devices may have
    // been restored.
    let mut first = true;
    // The device that is resumed first; it changes, so that each makes progress if pauses come
    // often.
    let mut turn = (0..devices.len().max(1)).cycle();
    while let Some(Rested(rested)) = control.checkpoint() {
        if rested || first {
            first = false;
            let (after, before) = devices.split_at(turn.next().unwrap_or(0));
            let in_turn = before.iter().chain(after);
            in_turn.for_each(|device| guarded(device, MmioTransport::resume));
        }
        let events = sources.0.wait::<32>(None);
        let events = events.map_err(|error| Failure(format!("cannot wait for events: {error}")))?;
        for (number, _) in events {
            // What is not taken stays signalled.
            if control.preempt.load(Ordering::SeqCst) {
                break;
            }
            match Token::decode(number) {
                Token::Wake => {
                    let _ = control.wake.read();
                }
                Token::Queue { device, queue } => guarded(&devices[device], |transport| {
                    transport.take_queue_event(queue);
                    transport.process_queue(queue);
                }),
                Token::Host { device } => {
                    guarded(&devices[device], MmioTransport::process_host_events);
                }
            }
        }
    }
    Ok(())
}

/// The message of a panic.
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("it does not say why")
}

#[derive(Debug, thiserror::Error)]
#[error("a bug in the device's code")]
struct Panicked;

/// Runs `work` on a device. If it panics, only that device fails, and its driver sees that it
/// needs a reset. (The panic hook has reported where.)
fn guarded(device: &Slot, work: impl FnOnce(&mut MmioTransport)) {
    let mut transport = device.lock_last();
    let result = catch_unwind(AssertUnwindSafe(|| work(&mut transport)));
    if result.is_err() {
        transport.fail(&Panicked);
    }
}

#[cfg(test)]
mod tests;
