//! Scheduling of the calling thread (sched_setattr(2)): time slices, and a real-time boost.
//!
//! Time slices: since Linux 6.12 a thread that asks for short slices gets the processor sooner
//! when it wakes, before threads with longer ones, but no larger share. Earlier kernels ignore it.
//!
//! Boost: a thread with the real-time policy `SCHED_RR` preempts all threads with the default
//! policy. It needs a privilege, and is used for the fraction of a millisecond in which a clone
//! starts.

/// `struct sched_attr` of linux/sched/types.h, its first version.
#[repr(C)]
#[derive(Debug, Default)]
struct Attr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
}

impl Attr {
    /// The attributes of the calling thread.
    fn own() -> Option<Self> {
        let mut attr = Self::default();
        let size = size_of::<Self>();
        // SAFETY: the kernel writes at most `size` bytes, which are there.
        let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, size, 0) };
        (result == 0).then_some(attr)
    }

    /// Whether the thread still has the default policy.
    fn is_ordinary(&self) -> bool {
        self.policy == libc::SCHED_OTHER as u32
    }

    /// Sets them for the calling thread. Returns whether the kernel allowed it.
    fn set(&self) -> bool {
        const CALLER: libc::pid_t = 0;
        self.set_for(CALLER)
    }

    /// Sets them for any thread of the process. The filters of confined threads forbid this.
    fn set_for(&self, thread: libc::pid_t) -> bool {
        let attr = Self {
            size: size_of::<Self>() as u32,
            ..*self
        };
        // SAFETY: the kernel reads one `sched_attr`, which outlives the call.
        unsafe { libc::syscall(libc::SYS_sched_setattr, thread, &raw const attr, 0) == 0 }
    }
}

/// The shortest time slice that Linux grants.
const SHORT_NS: u64 = 100_000;

/// For a thread that has little to do and that other threads wait for. Threads that it starts
/// inherit this.
pub fn use_short_time_slice() {
    set_time_slice(SHORT_NS);
}

/// For a thread that computes.
pub fn use_default_time_slice() {
    set_time_slice(0);
}

/// For a thread whose remaining work is waited for by nothing: it leaves the processor to others,
/// but for a tenth of its time.
pub fn use_low_weight() {
    const NICE: i32 = 10;
    // It may always be raised. Of no process means of the calling thread.
    let _ = rustix::process::setpriority_process(None, NICE);
}

/// Calls `wait`, and does not preempt the thread that ends the wait: this thread continues when
/// the processor is free or the next tick comes.
pub fn wait_without_preempting<T>(wait: impl FnOnce() -> T) -> T {
    // A thread that was given another policy keeps it.
    let Some(own) = Attr::own().filter(Attr::is_ordinary) else {
        return wait();
    };
    let usual = Attr {
        runtime_ns: 0,
        ..own
    };
    // A thread with this policy preempts no other when it wakes.
    let batch = Attr {
        policy: libc::SCHED_BATCH as u32,
        ..usual
    };
    batch.set();
    let result = wait();
    usual.set();
    result
}

/// A real-time boost (`SCHED_RR`) of the thread that made it, until it is dropped; without effect
/// unless the user has `CAP_SYS_NICE` or `RLIMIT_RTPRIO`. Threads and processes that the thread
/// starts are not boosted. Any thread may drop it, as long as the boosted one runs.
///
/// (A lower nice value does not do: the scheduler makes a thread that was preferred by weight wait
/// afterwards, up to seconds.)
#[derive(Debug)]
#[must_use = "the boost ends when this is dropped"]
pub struct RealtimeBoost {
    thread: libc::pid_t,
    /// The attributes before, if this changed them.
    usual: Option<Attr>,
}

impl RealtimeBoost {
    /// Boosts the calling thread, which runs only the monitor's own code.
    pub fn for_monitor() -> Self {
        Self::with_priority(2)
    }

    /// Boosts the calling thread, which will run a guest, to a lower priority than the monitor's
    /// own threads, so that those get the processor to end the boost.
    pub fn for_vcpu() -> Self {
        Self::with_priority(1)
    }

    fn with_priority(priority: u32) -> Self {
        const RESET_ON_FORK: u64 = 0x01;
        let usual = Attr::own().filter(Attr::is_ordinary);
        let boosted = Attr {
            policy: libc::SCHED_RR as u32,
            priority,
            flags: RESET_ON_FORK,
            ..Attr::default()
        };
        Self {
            thread: own_id(),
            usual: usual.filter(|_| boosted.set()),
        }
    }

    /// Whether the user has the privilege.
    pub fn is_granted(&self) -> bool {
        self.usual.is_some()
    }
}

impl Drop for RealtimeBoost {
    fn drop(&mut self) {
        if let Some(usual) = &self.usual {
            match self.thread == own_id() {
                true => usual.set(),
                false => usual.set_for(self.thread),
            };
        }
    }
}

/// The calling thread's ID.
fn own_id() -> libc::pid_t {
    // SAFETY: it takes nothing and only tells.
    unsafe { libc::gettid() }
}

fn set_time_slice(runtime_ns: u64) {
    if let Some(own) = Attr::own() {
        let changed = Attr { runtime_ns, ..own };
        changed.set();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The calling thread's time slice; always 0 before Linux 6.12.
    fn time_slice_ns() -> u64 {
        Attr::own().unwrap().runtime_ns
    }

    #[test]
    fn a_boost_lasts_until_it_is_dropped_and_is_not_inherited() {
        std::thread::spawn(|| {
            use_short_time_slice();
            let policy = || Attr::own().unwrap().policy as libc::c_int;
            let (usual, slice) = (policy(), time_slice_ns());
            let boost = RealtimeBoost::for_monitor();
            let expected = match boost.is_granted() {
                true => libc::SCHED_RR,
                // Not privileged.
                false => usual,
            };
            assert_eq!(policy(), expected);
            assert_eq!(std::thread::spawn(policy).join().unwrap(), usual);
            drop(boost);
            assert_eq!((policy(), time_slice_ns()), (usual, slice));
            // Another thread can end it, too.
            let boost = RealtimeBoost::for_vcpu();
            assert_eq!(policy(), expected);
            std::thread::spawn(|| drop(boost)).join().unwrap();
            assert_eq!((policy(), time_slice_ns()), (usual, slice));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_short_time_slice_is_inherited_and_can_be_given_up() {
        let usual = time_slice_ns();
        use_short_time_slice();
        let inherited = std::thread::spawn(|| {
            let inherited = time_slice_ns();
            use_default_time_slice();
            (inherited, time_slice_ns())
        });
        let short = if usual == 0 { 0 } else { SHORT_NS };
        assert_eq!(inherited.join().unwrap(), (short, usual));
    }
}
