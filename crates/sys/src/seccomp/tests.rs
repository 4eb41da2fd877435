use super::*;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use std::fs::File;
use std::io::ErrorKind;
use std::ptr::null_mut;

const NOTHING: Allowed = Allowed {
    calls: &[],
    requests: &[],
};

fn confined<T: Send + 'static>(
    allowed: Allowed,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::thread::Result<T> {
    let confinement = Confinement::new(&allowed).unwrap();
    let confined = move || {
        confinement.enter().unwrap();
        work()
    };
    std::thread::spawn(confined).join()
}

#[test]
fn a_confined_thread_goes_on_with_memory_locks_and_messages() {
    let result = confined(NOTHING, || {
        let mut memory = vec![1_u8; 64 << 20];
        memory.reserve_exact(64 << 20);
        let (sender, receiver) = std::sync::mpsc::channel();
        sender.send(memory.len()).unwrap();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, which no code uses.
        unsafe { mmap_anonymous(null_mut(), 4096, protection, MapFlags::PRIVATE) }?;
        drop(crate::sched::RealtimeBoost::for_vcpu());
        Ok::<_, Errno>(receiver.recv().unwrap())
    });
    assert_eq!(result.unwrap(), Ok(64 << 20));
}

#[test]
fn what_libraries_can_do_without_is_refused_and_the_process_goes_on() {
    let opened = confined(NOTHING, || {
        File::open("/dev/null")
            .map(drop)
            .map_err(|error| error.kind())
    });
    assert_eq!(opened.unwrap(), Err(ErrorKind::PermissionDenied));
    let directory = confined(NOTHING, || std::env::current_dir().is_err());
    assert!(directory.unwrap());
}

#[test]
fn a_confined_thread_that_panics_ends_and_the_process_goes_on() {
    let result = confined(NOTHING, || panic!("on purpose"));
    assert!(result.is_err());
}

#[test]
fn of_the_requests_to_devices_those_named_reach_the_kernel() {
    const WINDOW_SIZE: &[Request] = &[("TIOCGWINSZ", libc::TIOCGWINSZ as u32)];
    let one = Allowed {
        requests: &[WINDOW_SIZE],
        ..NOTHING
    };
    let file = File::open("/dev/null").unwrap();
    let size = confined(one, move || rustix::termios::tcgetwinsize(&file).map(drop));
    assert_eq!(size.unwrap(), Err(Errno::NOTTY));
}

#[test]
fn other_threads_are_as_they_were() {
    confined(NOTHING, || ()).unwrap();
    assert!(File::open("/dev/null").is_ok());
}
