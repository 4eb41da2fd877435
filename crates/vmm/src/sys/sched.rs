//! How long a thread's turns are (sched_setattr(2)). Since Linux 6.12 a thread that asks
//! for short ones gets the processor sooner when it wakes, from threads with longer
//! ones, and no more of it in all. Earlier kernels take no notice.

/// `struct sched_attr` of linux/sched/types.h, its first version.
#[repr(C)]
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

/// Waits by `wait`, and is let to the processor afterwards when others are done or the
/// next tick comes, but takes it from nobody: who wakes this thread goes on first.
pub fn wait_politely<T>(wait: impl FnOnce() -> T) -> T {
    // SAFETY: asks for the calling thread's and takes plain numbers.
    if unsafe { libc::sched_getscheduler(0) } != libc::SCHED_OTHER {
        // Somebody has decided about it.
        return wait();
    }
    set(libc::SCHED_BATCH, 0, 0);
    let result = wait();
    set(libc::SCHED_OTHER, 0, 0);
    result
}

fn set_turns(runtime_ns: u64) {
    const KEEP_POLICY: u64 = 0x08;
    set(0, KEEP_POLICY, runtime_ns);
}

fn set(policy: libc::c_int, flags: u64, runtime_ns: u64) {
    let attr = Attr {
        size: size_of::<Attr>() as u32,
        policy: policy as u32,
        flags,
        // SAFETY: asks for the calling thread's and takes plain numbers.
        nice: unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) },
        priority: 0,
        runtime_ns,
        deadline_ns: 0,
        period_ns: 0,
    };
    // SAFETY: the kernel reads one `sched_attr`, which outlives the call. That it may
    // refuse does no harm.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel has it, whose answer before Linux 6.12 is always 0.
    fn turns_ns() -> u64 {
        // SAFETY: all-zero bytes are an `Attr`.
        let mut attr: Attr = unsafe { std::mem::zeroed() };
        let size = size_of::<Attr>();
        // SAFETY: the kernel writes at most `size` bytes, which are there.
        let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, size, 0) };
        assert_eq!(result, 0);
        attr.runtime_ns
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
