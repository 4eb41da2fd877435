//! What a thread may ask of the host's kernel (seccomp(2)).
//!
//! The threads that handle what a guest writes need few system calls. A guest that took one
//! of them over would find no others: to the rest the kernel answers `EPERM`.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use std::io;

/// What threads of one kind may ask for.
#[derive(Debug, Clone, Copy)]
pub struct Allowed {
    /// System calls, whatever their arguments, beside those that [every thread](ALWAYS)
    /// may make.
    pub calls: &'static [&'static [libc::c_long]],
    /// Kinds of ioctl(2): the second byte of the request, such as 0xAE for KVM.
    pub ioctls: &'static [u8],
    /// Requests of ioctl(2) of other kinds.
    pub requests: &'static [u32],
    /// Whether they make Unix sockets; no thread makes others.
    pub unix_sockets: bool,
}

/// What every thread does: memory (but none that can be executed), locks, time, descriptors
/// it has, its own place among those who want a processor, its end.
const ALWAYS: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getattr,
    libc::SYS_sched_setattr,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Of these the third argument says what may be done with the memory.
const MAPPING: [libc::c_long; 2] = [libc::SYS_mmap, libc::SYS_mprotect];

/// A confinement that threads can enter, for good.
#[derive(Debug)]
pub struct Confinement(BpfProgram);

impl Confinement {
    /// # Errors
    /// When the host's kernel has no such filters.
    pub fn new(allowed: &Allowed) -> io::Result<Self> {
        ask_kernel()?;
        program(allowed).map(Self).map_err(io::Error::other)
    }

    /// Confines the calling thread, and those it will start. They also gain no privileges by
    /// executing a program (`no_new_privs`).
    ///
    /// # Errors
    /// The kernel's.
    pub fn enter(&self) -> io::Result<()> {
        seccompiler::apply_filter(&self.0).map_err(io::Error::other)
    }
}

fn ask_kernel() -> io::Result<()> {
    let action: u32 = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the kernel reads one number, which outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0,
            &raw const action,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn program(allowed: &Allowed) -> Result<BpfProgram, seccompiler::BackendError> {
    let calls = allowed.calls.iter().copied().flatten();
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = calls
        .chain(ALWAYS)
        .map(|&call| (call, Vec::new()))
        .collect();
    let not_executable = || argument(2, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0);
    for call in MAPPING {
        rules.insert(call, vec![not_executable()?]);
    }
    if allowed.unix_sockets {
        let unix = argument(0, SeccompCmpOp::Eq, libc::AF_UNIX as u64)?;
        rules.insert(libc::SYS_socket, vec![unix]);
    }
    let kinds = allowed.ioctls.iter();
    let kinds =
        kinds.map(|&kind| argument(1, SeccompCmpOp::MaskedEq(0xff00), u64::from(kind) << 8));
    let requests = allowed.requests.iter();
    let requests = requests.map(|&request| argument(1, SeccompCmpOp::Eq, request.into()));
    let ioctls: Vec<_> = kinds.chain(requests).collect::<Result<_, _>>()?;
    if !ioctls.is_empty() {
        rules.insert(libc::SYS_ioctl, ioctls);
    }
    let otherwise = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(rules, otherwise, SeccompAction::Allow, TargetArch::x86_64)?.try_into()
}

fn argument(
    index: u8,
    compared: SeccompCmpOp,
    with: u64,
) -> Result<SeccompRule, seccompiler::BackendError> {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, compared, with)?;
    SeccompRule::new(vec![condition])
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    use rustix::net::{AddressFamily, SocketType, socket};
    use std::fs::File;
    use std::ptr::null_mut;

    fn confined<T: Send + 'static>(
        allowed: Allowed,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let confinement = Confinement::new(&allowed).unwrap();
        let confined = move || {
            confinement.enter().unwrap();
            work()
        };
        std::thread::spawn(confined).join().unwrap()
    }

    const NOTHING: Allowed = Allowed {
        calls: &[],
        ioctls: &[],
        requests: &[],
        unix_sockets: false,
    };

    fn map(protection: ProtFlags) -> Result<(), Errno> {
        // SAFETY: a new mapping, which nobody uses.
        unsafe { mmap_anonymous(null_mut(), 4096, protection, MapFlags::PRIVATE) }.map(drop)
    }

    #[test]
    fn a_confined_thread_opens_nothing_connects_to_nothing_and_executes_nothing() {
        let results = confined(NOTHING, || {
            (
                File::open("/dev/null").map_err(|error| error.kind()),
                socket(AddressFamily::INET, SocketType::STREAM, None).map(drop),
                map(ProtFlags::READ | ProtFlags::EXEC),
                std::process::Command::new("/bin/true").status().is_ok(),
            )
        });
        let (opened, connected, executable, executed) = results;
        assert_eq!(opened.unwrap_err(), io::ErrorKind::PermissionDenied);
        assert_eq!(connected, Err(Errno::PERM));
        assert_eq!(executable, Err(Errno::PERM));
        assert!(!executed);
    }

    #[test]
    fn a_confined_thread_goes_on_with_memory_locks_and_what_is_allowed() {
        let unix = Allowed {
            unix_sockets: true,
            ..NOTHING
        };
        let result = confined(unix, || {
            let memory = vec![1_u8; 64 << 20];
            let (sender, receiver) = std::sync::mpsc::channel();
            sender.send(memory.len()).unwrap();
            map(ProtFlags::READ | ProtFlags::WRITE)?;
            socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
            assert!(socket(AddressFamily::INET, SocketType::STREAM, None).is_err());
            Ok::<_, Errno>(receiver.recv().unwrap())
        });
        assert_eq!(result, Ok(64 << 20));
    }

    #[test]
    fn only_ioctls_of_the_kinds_allowed_reach_the_kernel() {
        let terminals = Allowed {
            calls: &[&[libc::SYS_openat]],
            ioctls: b"T",
            ..NOTHING
        };
        let results = confined(terminals, || {
            let file = File::open("/dev/null").unwrap();
            (
                rustix::termios::tcgetwinsize(&file).map(drop),
                rustix::fs::ioctl_blksszget(&file).map(drop),
            )
        });
        assert_eq!(results, (Err(Errno::NOTTY), Err(Errno::PERM)));
    }

    #[test]
    fn of_other_kinds_only_single_requests_reach_the_kernel() {
        const TIOCGWINSZ: u32 = 0x5413;
        let one = Allowed {
            calls: &[&[libc::SYS_openat]],
            requests: &[TIOCGWINSZ],
            ..NOTHING
        };
        let results = confined(one, || {
            let file = File::open("/dev/null").unwrap();
            (
                rustix::termios::tcgetwinsize(&file).map(drop),
                rustix::termios::tcgetattr(&file).map(drop),
            )
        });
        assert_eq!(results, (Err(Errno::NOTTY), Err(Errno::PERM)));
    }

    #[test]
    fn other_threads_are_as_they_were() {
        confined(NOTHING, || ());
        assert!(File::open("/dev/null").is_ok());
    }
}
