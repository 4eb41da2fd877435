//! Which thread gets the processor first (sched_setattr(2)).
//!
//! The slice length: since Linux 6.12 a thread that asks for short slices gets the
//! processor sooner when it wakes, from threads with longer ones, but no larger share.
//! Earlier kernels ignore it.
//!
//! Urgency (`SCHED_RR`): an urgent thread does not wait for threads that compute. It needs a
//! privilege, and lasts for the fraction of a millisecond in which a clone starts.

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
    /// The calling thread's.
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

    /// Makes them the calling thread's. That the kernel may refuse does no harm.
    fn set(&self) -> bool {
        const CALLER: libc::pid_t = 0;
        self.set_for(CALLER)
    }

    /// Makes them another thread's, which no confined thread may do.
    fn set_for(&self, thread: libc::pid_t) -> bool {
        let attr = Self {
            size: size_of::<Self>() as u32,
            ..*self
        };
        // SAFETY: the kernel reads one `sched_attr`, which outlives the call.
        unsafe { libc::syscall(libc::SYS_sched_setattr, thread, &raw const attr, 0) == 0 }
    }
}

/// The shortest turns there are.
const SHORT_NS: u64 = 100_000;

/// For the calling thread, and those it will start: one that has little to do, for which
/// others wait.
pub fn prefer_short_turns() {
    set_turns(SHORT_NS);
}

/// For the calling thread: one that computes.
pub fn take_usual_turns() {
    set_turns(0);
}

/// Waits by `wait`, and gets the processor afterwards when others are done or the
/// next tick comes, but preempts no thread: the thread that wakes this one continues first.
pub fn wait_politely<T>(wait: impl FnOnce() -> T) -> T {
    // Otherwise another policy was chosen for this thread.
    let Some(own) = Attr::own().filter(Attr::is_ordinary) else {
        return wait();
    };
    let usual = Attr {
        runtime_ns: 0,
        ..own
    };
    let polite = Attr {
        policy: libc::SCHED_BATCH as u32,
        ..usual
    };
    polite.set();
    let result = wait();
    usual.set();
    result
}

/// While this lives, the thread that made it is urgent (`SCHED_RR`), if the user has the
/// privilege: `CAP_SYS_NICE` or `RLIMIT_RTPRIO`. Threads and processes that it starts are not.
/// Other threads may end its urgency, as long as it runs.
///
/// (Lower niceness does not work: the scheduler makes a thread that was preferred by weight
/// wait afterwards, up to seconds.)
#[derive(Debug)]
#[must_use = "it ends when dropped"]
pub struct Urgent {
    thread: libc::pid_t,
    /// The policy before, if this changed it.
    usual: Option<Attr>,
}

impl Urgent {
    /// Makes the calling thread urgent, which runs only the monitor's own code.
    pub fn now() -> Self {
        Self::with_priority(2)
    }

    /// Makes the calling thread urgent, which will run a guest. Its priority is below that of the
    /// monitor's own threads, so that those can end its urgency.
    pub fn guest() -> Self {
        Self::with_priority(1)
    }

    fn with_priority(priority: u32) -> Self {
        const RESET_ON_FORK: u64 = 0x01;
        let usual = Attr::own().filter(Attr::is_ordinary);
        let urgent = Attr {
            policy: libc::SCHED_RR as u32,
            priority,
            flags: RESET_ON_FORK,
            ..Attr::default()
        };
        Self {
            thread: own_id(),
            usual: usual.filter(|_| urgent.set()),
        }
    }

    /// Whether the user has the privilege.
    pub fn is_granted(&self) -> bool {
        self.usual.is_some()
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        if let Some(usual) = &self.usual {
            match self.thread == own_id() {
                true => usual.set(),
                false => usual.set_for(self.thread),
            };
        }
    }
}

/// The calling thread's number.
fn own_id() -> libc::pid_t {
    // SAFETY: it takes nothing and only tells.
    unsafe { libc::gettid() }
}

fn set_turns(runtime_ns: u64) {
    if let Some(own) = Attr::own() {
        let turns = Attr { runtime_ns, ..own };
        turns.set();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel has it, whose answer before Linux 6.12 is always 0.
    fn turns_ns() -> u64 {
        Attr::own().unwrap().runtime_ns
    }

    #[test]
    fn who_is_urgent_is_so_until_that_is_over_and_starts_nobody_who_is() {
        std::thread::spawn(|| {
            prefer_short_turns();
            let policy = || Attr::own().unwrap().policy as libc::c_int;
            let (usual, turns) = (policy(), turns_ns());
            let urgent = Urgent::now();
            let expected = match urgent.is_granted() {
                true => libc::SCHED_RR,
                // Not privileged.
                false => usual,
            };
            assert_eq!(policy(), expected);
            assert_eq!(std::thread::spawn(policy).join().unwrap(), usual);
            drop(urgent);
            assert_eq!((policy(), turns_ns()), (usual, turns));
            // Others can end it, too.
            let urgent = Urgent::guest();
            assert_eq!(policy(), expected);
            std::thread::spawn(|| drop(urgent)).join().unwrap();
            assert_eq!((policy(), turns_ns()), (usual, turns));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn short_turns_are_inherited_and_given_up() {
        let usual = turns_ns();
        prefer_short_turns();
        let inherited = std::thread::spawn(|| {
            let inherited = turns_ns();
            take_usual_turns();
            (inherited, turns_ns())
        });
        let short = if usual == 0 { 0 } else { SHORT_NS };
        assert_eq!(inherited.join().unwrap(), (short, usual));
    }
}
