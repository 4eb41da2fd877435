//! Seccomp filters for threads that handle untrusted input (seccomp(2)).
//!
//! The threads that handle what a guest writes need few system calls, and few values of
//! their arguments. Any other call ends the whole process at once
//! (`SECCOMP_RET_KILL_PROCESS`): a guest that has taken a thread over gets one attempt. The
//! exception are calls that libraries make to find something out and can do without
//! ([`PROBES`]); to these the kernel answers `EPERM`.

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use std::fmt;
use std::io;

/// The system calls that one kind of thread may make.
#[derive(Debug, Clone, Copy)]
pub struct Allowed {
    /// System calls beyond those that [every thread](COMMON) may make, or further cases of those.
    pub calls: &'static [&'static [Call]],
    /// Requests of ioctl(2), the most frequent first.
    pub requests: &'static [&'static [Request]],
}

/// A system call.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// As libc has it: `SYS_read`.
    pub name: &'static str,
    /// Its number.
    pub number: libc::c_long,
    /// The cases of arguments that are allowed; empty if any arguments are.
    pub cases: &'static [Case],
}

/// Conditions on a call's arguments, which must all hold.
pub type Case = &'static [Argument];

/// What an argument must be.
#[derive(Debug, Clone, Copy)]
pub struct Argument {
    /// Which one, from 0.
    pub index: u8,
    /// What it must be.
    pub is: Is,
}

/// What the value of an argument must be.
#[derive(Debug, Clone, Copy)]
pub enum Is {
    /// This number, which has a name. The upper 32 bits are not compared: the kernel ignores them
    /// in an `int`.
    Exactly(&'static str, u32),
    /// Without this bit, which has a name and is one of the lower 32.
    Without(&'static str, u32),
    /// The process of the thread that is confined.
    OwnProcess,
    /// No address at all.
    Null,
    /// Any number but 0.
    NotZero,
}

/// A request of ioctl(2): its name and number.
pub type Request = (&'static str, u32);

/// System calls by their names in [`libc`], whatever their arguments.
#[macro_export]
macro_rules! calls {
    ($($name:ident)*) => {
        &[$($crate::seccomp::Call {
            name: stringify!($name),
            number: libc::$name,
            cases: &[],
        }),*]
    };
}
pub use calls;

/// A system call by its name in [`libc`], in these cases.
#[macro_export]
macro_rules! call {
    ($name:ident, $cases:expr) => {
        $crate::seccomp::Call {
            name: stringify!($name),
            number: libc::$name,
            cases: $cases,
        }
    };
}
pub use call;

/// An argument that is the constant of this name in [`libc`].
#[macro_export]
macro_rules! exactly {
    ($index:expr, $name:ident) => {
        $crate::seccomp::Argument {
            index: $index,
            is: $crate::seccomp::Is::Exactly(stringify!($name), libc::$name as u32),
        }
    };
}
pub use exactly;

/// An argument without the bit of this name in [`libc`].
macro_rules! without {
    ($index:expr, $name:ident) => {
        $crate::seccomp::Argument {
            index: $index,
            is: $crate::seccomp::Is::Without(stringify!($name), libc::$name as u32),
        }
    };
}

const OWN_PROCESS: Argument = Argument {
    index: 0,
    is: Is::OwnProcess,
};

/// The first of the signals that are for programs to use, as the C library counts them.
const KICK: Argument = Argument {
    index: 2,
    is: Is::Exactly("SIGRTMIN", 34),
};

const OWN_THREAD: Argument = Argument {
    index: 0,
    is: Is::Exactly("the calling thread", 0),
};

/// Data over an existing connection: the call names no other destination.
pub const SEND: Call = call!(
    SYS_sendto,
    &[&[Argument {
        index: 4,
        is: Is::Null,
    }]]
);

/// What every thread does: memory (none that can be executed, none that others see), locks,
/// time, descriptors that the thread has, its own scheduling, its end.
/// The thread sends no signal but the kick, to threads of its own process, and installs no handler:
/// abort(3), too, ends the process, as every call does that is not listed.
const COMMON: &[&[Call]] = &[
    calls![
        SYS_brk SYS_clock_gettime SYS_close SYS_exit SYS_ftruncate SYS_futex
        SYS_getpid SYS_getrandom SYS_gettid SYS_munmap SYS_pread64 SYS_preadv SYS_pwrite64 SYS_read
        SYS_restart_syscall SYS_rt_sigprocmask SYS_rt_sigreturn SYS_sched_yield SYS_sigaltstack
        SYS_write
    ],
    &[
        // In debug builds the standard library checks whether a descriptor that it closes is open.
        call!(SYS_fcntl, &[&[exactly!(1, F_GETFD)]]),
        call!(SYS_madvise, &[&[exactly!(2, MADV_DONTNEED)]]),
        call!(
            SYS_mmap,
            &[&[without!(2, PROT_EXEC), without!(3, MAP_SHARED)]]
        ),
        call!(SYS_mprotect, &[&[without!(2, PROT_EXEC)]]),
        // As realloc(3) does it. An old length of 0 would duplicate a shared mapping.
        call!(
            SYS_mremap,
            &[&[
                Argument {
                    index: 1,
                    is: Is::NotZero,
                },
                exactly!(3, MREMAP_MAYMOVE)
            ]]
        ),
        call!(SYS_sched_getattr, &[&[OWN_THREAD]]),
        call!(SYS_sched_setattr, &[&[OWN_THREAD]]),
        // A vCPU thread that fails kicks the others.
        call!(SYS_tgkill, &[&[OWN_PROCESS, KICK]]),
    ],
];

/// Calls that libraries make and can do without: the C library's allocator asks for the number of
/// processors and whether memory is overcommitted, the panic handler for the program's symbols.
const PROBES: &[Call] = calls![SYS_getcwd SYS_openat SYS_readlink SYS_sched_getaffinity];

/// Filters that a thread can enter, permanently.
#[derive(Debug)]
pub struct Confinement {
    /// Refuses probes. The kernel runs all filters and takes the strictest answer.
    refusing: BpfProgram,
    /// Ends the process at anything that is neither allowed nor a probe.
    ending: BpfProgram,
}

impl Confinement {
    /// # Errors
    /// When the host's kernel has no such filters.
    pub fn new(allowed: &Allowed) -> io::Result<Self> {
        ask_kernel()?;
        Self::compile(allowed).map_err(io::Error::other)
    }

    fn compile(allowed: &Allowed) -> Result<Self, BackendError> {
        let mut rules: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for call in allowed.all_calls().chain(PROBES.iter().copied()) {
            rules.entry(call.number).or_default().extend(call.rules()?);
        }
        let requests = allowed.all_requests().map(|request| request.rule());
        let requests: Vec<_> = requests.collect::<Result<_, _>>()?;
        // Without a rule a call would be allowed whatever its arguments.
        if !requests.is_empty() {
            rules.insert(libc::SYS_ioctl, requests);
        }
        let probes = PROBES
            .iter()
            .map(|call| (call.number, Vec::new()))
            .collect();
        let refused = SeccompAction::Errno(libc::EPERM as u32);
        Ok(Self {
            refusing: program(probes, SeccompAction::Allow, refused)?,
            ending: program(rules, SeccompAction::KillProcess, SeccompAction::Allow)?,
        })
    }

    /// Confines the calling thread, and those it will start. They also gain no privileges by
    /// executing a program (`no_new_privs`).
    ///
    /// # Errors
    /// The kernel's.
    pub fn enter(&self) -> io::Result<()> {
        // In this order: the second filter forbids loading another.
        [&self.refusing, &self.ending]
            .into_iter()
            .try_for_each(|program| seccompiler::apply_filter(program))
            .map_err(io::Error::other)
    }
}

impl Allowed {
    /// All but ioctl(2), of which only [requests](Self::requests) are allowed.
    fn all_calls(&self) -> impl Iterator<Item = Call> {
        COMMON.iter().chain(self.calls).copied().flatten().copied()
    }

    /// What the argument of ioctl(2) may be that says what is wanted.
    fn all_requests(&self) -> impl Iterator<Item = Argument> {
        let requests = self.requests.iter().copied().flatten();
        requests.map(|&(name, number)| Argument {
            index: 1,
            is: Is::Exactly(name, number),
        })
    }
}

/// As the golden files of the filters have it: a line for each call and case, sorted by name.
impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut calls: Vec<_> = self.all_calls().collect();
        calls.sort_by_key(|call| call.name);
        for call in &calls {
            write!(f, "{call}")?;
        }
        for request in self.all_requests() {
            writeln!(f, "ioctl: {request}")?;
        }
        for call in PROBES {
            writeln!(f, "{}: EPERM", call.short_name())?;
        }
        calls.dedup_by_key(|call| call.number);
        let ioctl = usize::from(self.all_requests().next().is_some());
        writeln!(f, "system calls: {}", calls.len() + ioctl)
    }
}

impl Call {
    fn rules(&self) -> Result<Vec<SeccompRule>, BackendError> {
        let rule = |case: &Case| {
            let conditions = case.iter().map(Argument::condition);
            SeccompRule::new(conditions.collect::<Result<_, _>>()?)
        };
        self.cases.iter().map(rule).collect()
    }

    fn short_name(&self) -> &'static str {
        self.name.trim_start_matches("SYS_")
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.cases.is_empty() {
            writeln!(f, "{}", self.short_name())?;
        }
        for case in self.cases {
            let arguments: Vec<_> = case.iter().map(Argument::to_string).collect();
            writeln!(f, "{}: {}", self.short_name(), arguments.join(", "))?;
        }
        Ok(())
    }
}

impl Argument {
    fn condition(&self) -> Result<SeccompCondition, BackendError> {
        let (compared, with) = match self.is {
            Is::Exactly(_, value) => (SeccompCmpOp::Eq, value),
            Is::Without(_, bit) => (SeccompCmpOp::MaskedEq(bit.into()), 0),
            Is::OwnProcess => (SeccompCmpOp::Eq, std::process::id()),
            Is::Null => (SeccompCmpOp::Eq, 0),
            Is::NotZero => (SeccompCmpOp::Ne, 0),
        };
        let compared_bits = match self.is {
            Is::Exactly(..) | Is::Without(..) | Is::OwnProcess => SeccompCmpArgLen::Dword,
            Is::Null | Is::NotZero => SeccompCmpArgLen::Qword,
        };
        SeccompCondition::new(self.index, compared_bits, compared, with.into())
    }

    fn rule(&self) -> Result<SeccompRule, BackendError> {
        SeccompRule::new(vec![self.condition()?])
    }
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = self.index;
        match self.is {
            Is::Exactly(name, value) => write!(f, "argument {index} = {value:#x} ({name})"),
            Is::Without(name, bit) => write!(f, "argument {index} & {bit:#x} = 0 ({name})"),
            Is::OwnProcess => write!(f, "argument {index} = its own process"),
            Is::Null => write!(f, "argument {index} = null"),
            Is::NotZero => write!(f, "argument {index} is not 0"),
        }
    }
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    then: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, otherwise, then, TargetArch::x86_64)?.try_into()
}

fn ask_kernel() -> io::Result<()> {
    for action in [libc::SECCOMP_RET_ERRNO, libc::SECCOMP_RET_KILL_PROCESS] {
        // SAFETY: the kernel reads one number, which outlives the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_GET_ACTION_AVAIL,
                0,
                &raw const action,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
