//! Attempts of code that has taken over a confined thread, for tests: each in a process of its
//! own, which must not survive it.

use crate::sys::seccomp::Confinement;
use std::env;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::ptr::null;
use std::thread;

/// Environment variable of the process: which attempt it makes.
const ATTEMPT: &str = "HYPERFORK_TEST_ATTEMPT";

/// Said by a process whose thread is confined, and by one that is still there afterwards.
const CONFINED: &str = "confined\n";
const SURVIVED: &str = "survived\n";

type Attempt = (&'static str, fn() -> libc::c_long);

/// A system call. What it is given is worthless: should the kernel try it, nothing happens.
macro_rules! attempt {
    ($name:ident $(, $argument:expr)*) => {
        (
            stringify!($name),
            // SAFETY: no argument is an address that is there.
            || unsafe { libc::syscall(libc::$name $(, $argument as libc::c_long)*) },
        )
    };
    ($name_of_call:literal: $name:ident $(, $argument:expr)*) => {
        // SAFETY: as above.
        ($name_of_call, || unsafe { libc::syscall(libc::$name $(, $argument as libc::c_long)*) })
    };
}

const NOWHERE: *const u8 = null();
const NO_FILE: i32 = -1;
const NO_PROCESS: i32 = i32::MAX;
const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

const ATTEMPTS: &[Attempt] = &[
    // Programs, processes and threads.
    attempt!(SYS_execve, NOWHERE, 0, 0),
    attempt!(SYS_execveat, NO_FILE, NOWHERE, 0, 0, 0),
    attempt!(SYS_clone, -1, 0, 0, 0, 0),
    attempt!(SYS_clone3, NOWHERE, 0),
    attempt!(SYS_ptrace, -1, NO_PROCESS, 0, 0),
    attempt!(SYS_process_vm_readv, NO_PROCESS, NOWHERE, 0, NOWHERE, 0, 0),
    attempt!(SYS_process_vm_writev, NO_PROCESS, NOWHERE, 0, NOWHERE, 0, 0),
    attempt!(SYS_pidfd_open, NO_PROCESS, 0),
    attempt!(SYS_pidfd_getfd, NO_FILE, 0, 0),
    // Signals, and what other threads do about them.
    attempt!(SYS_kill, NO_PROCESS, 0),
    attempt!(SYS_tkill, NO_PROCESS, 0),
    attempt!(SYS_tgkill, NO_PROCESS, NO_PROCESS, 0),
    ("tgkill of its own process", || {
        // SAFETY: there is no such thread.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), NO_PROCESS, libc::SIGUSR1) }
    }),
    attempt!(SYS_rt_sigaction, libc::SIGUSR1, NOWHERE, NOWHERE, 8),
    attempt!("sched_setattr of others": SYS_sched_setattr, NO_PROCESS, NOWHERE, 0),
    attempt!("sched_getattr of others": SYS_sched_getattr, NO_PROCESS, NOWHERE, 0, 0),
    attempt!(SYS_sched_setscheduler, NO_PROCESS, 0, NOWHERE),
    attempt!(SYS_prlimit64, NO_PROCESS, 0, NOWHERE, NOWHERE),
    // Memory.
    attempt!("mmap for others to see": SYS_mmap, 0, 4096, READ_WRITE, libc::MAP_SHARED, NO_FILE, 0),
    attempt!("mmap of what can be executed": SYS_mmap, 0, 4096, libc::PROT_EXEC, libc::MAP_PRIVATE, NO_FILE, 0),
    attempt!("mprotect of what can be executed": SYS_mprotect, 0, 0, libc::PROT_EXEC),
    attempt!("mremap to elsewhere": SYS_mremap, 0, 0, 0, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, 0),
    attempt!("mremap that duplicates": SYS_mremap, 0, 0, 4096, libc::MREMAP_MAYMOVE, 0),
    attempt!("madvise that makes holes": SYS_madvise, 0, 0, libc::MADV_REMOVE),
    attempt!(SYS_memfd_create, NOWHERE, 0),
    attempt!(SYS_userfaultfd, -1),
    // Descriptors.
    attempt!("fcntl that seals": SYS_fcntl, NO_FILE, libc::F_ADD_SEALS, 0),
    attempt!("fcntl that has signals sent": SYS_fcntl, NO_FILE, libc::F_SETOWN, 0),
    attempt!(SYS_dup3, NO_FILE, 0, 0),
    attempt!(SYS_sendmsg, NO_FILE, NOWHERE, 0),
    attempt!(SYS_recvmsg, NO_FILE, NOWHERE, 0),
    attempt!("KVM_CREATE_VM": SYS_ioctl, NO_FILE, 0xae01, 0),
    attempt!("KVM_CREATE_VCPU": SYS_ioctl, NO_FILE, 0xae41, 0),
    attempt!("KVM_SET_USER_MEMORY_REGION": SYS_ioctl, NO_FILE, 0x4020_ae46, 0),
    attempt!("KVM_CREATE_DEVICE": SYS_ioctl, NO_FILE, 0xc00c_aee0_u32, 0),
    attempt!("TUNSETIFF": SYS_ioctl, NO_FILE, 0x4004_54ca, 0),
    attempt!("TIOCSTI": SYS_ioctl, NO_FILE, libc::TIOCSTI, 0),
    // Files by name.
    attempt!(SYS_open, NOWHERE, 0, 0),
    attempt!(SYS_openat2, NO_FILE, NOWHERE, NOWHERE, 0),
    attempt!(SYS_mkdirat, NO_FILE, NOWHERE, 0),
    attempt!(SYS_unlink, NOWHERE),
    attempt!(SYS_rename, NOWHERE, NOWHERE),
    attempt!(SYS_chmod, NOWHERE, 0),
    attempt!(SYS_chroot, NOWHERE),
    attempt!(SYS_mount, NOWHERE, NOWHERE, NOWHERE, 0, 0),
    attempt!(SYS_open_by_handle_at, NO_FILE, NOWHERE, 0),
    // Networks.
    attempt!("socket of the internet": SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0),
    attempt!("socket to the kernel": SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW, 0),
    attempt!("sendto by an address": SYS_sendto, NO_FILE, NOWHERE, 0, 0, 1_u64 << 32, 0),
    attempt!(SYS_bind, NO_FILE, NOWHERE, 0),
    attempt!(SYS_listen, NO_FILE, 0),
    // Other doors of the kernel's.
    attempt!(SYS_bpf, -1, NOWHERE, 0),
    attempt!(SYS_io_uring_setup, 0, NOWHERE),
    attempt!(SYS_perf_event_open, NOWHERE, NO_PROCESS, 0, NO_FILE, 0),
    attempt!(SYS_prctl, -1, 0, 0, 0, 0),
    attempt!(SYS_seccomp, -1, 0, NOWHERE),
    attempt!(SYS_setns, NO_FILE, 0),
    attempt!(SYS_unshare, 0),
    attempt!(SYS_setuid, -1),
    attempt!(SYS_keyctl, -1, 0, 0, 0, 0),
];

/// Has processes make the attempts, but for those with `other` names: each runs the ignored
/// test called `test`, which must come to [`make`]. None may survive its attempt.
pub(crate) fn none_survives(test: &str, other: &[&str]) {
    for other in other {
        assert!(ATTEMPTS.iter().any(|(name, _)| name == other), "{other}");
    }
    let forbidden = ATTEMPTS.iter().filter(|(name, _)| !other.contains(name));
    let mut running = Vec::new();
    for (name, _) in forbidden {
        let program = env::current_exe().unwrap();
        let process = Command::new(program)
            .args([test, "--exact", "--ignored", "--nocapture"])
            .env(ATTEMPT, name)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        running.push((name, process));
    }
    let mut survivors = Vec::new();
    for (name, process) in running {
        let output = process.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(CONFINED), "{name}: {output:?}");
        if output.status.signal() != Some(libc::SIGSYS) || said.contains(SURVIVED) {
            survivors.push((name, output));
        }
    }
    assert!(survivors.is_empty(), "{survivors:?}");
}

/// In such a process: makes its attempt in a thread that is confined like this.
pub(crate) fn make(confinement: Confinement) {
    let wanted = env::var(ATTEMPT).expect("the process of an attempt");
    let attempt = ATTEMPTS.iter().find(|(name, _)| *name == wanted);
    let (_, attempt) = *attempt.expect("an attempt that there is");
    let confined = thread::spawn(move || {
        confinement.enter().unwrap();
        say(CONFINED);
        attempt();
        say(SURVIVED);
    });
    confined.join().unwrap();
}

fn say(message: &str) {
    io::stdout().write_all(message.as_bytes()).unwrap();
}
