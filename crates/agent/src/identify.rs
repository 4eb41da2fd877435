//! Gives the guest's machine its identity, and powers it off.

use crate::clock::Clock;
use crate::hooks::Hooks;
use crate::log;
use crate::machine::Machine;
use crate::network::Nic;
use crate::pages::Pages;
use crate::secrets::SecretFiles;
use crate::sys::{ioctl, signals};
use hyperfork_api::guest::{Failure, RUN_DIR, SECRETS_DIR};
use hyperfork_api::{Id, Identity, Secrets};
use rustix::fs::sync;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind};
use rustix::process::{WaitOptions, wait};
use rustix::system::{RebootCommand, reboot, sethostname};
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// How long programs may take to end by themselves.
const GRACE: Duration = Duration::from_secs(2);

/// How often the agent checks whether they have.
const GRACE_STEP: Duration = Duration::from_millis(20);

/// The machine whose PID 1 this is.
pub(crate) struct Pid1 {
    /// Kept open: that is one system call less in a clone.
    random: std::io::Result<File>,
    pages: Pages,
    nic: Nic,
    secret_files: SecretFiles,
    hooks: Hooks,
    clock: Clock,
    /// The identity that it has, by its token.
    is: Option<Id>,
}

impl Pid1 {
    /// Takes charge.
    pub(crate) fn new() -> Self {
        Self {
            random: File::open("/dev/urandom"),
            pages: Pages::in_directory(Path::new(RUN_DIR)),
            nic: Nic::default(),
            secret_files: SecretFiles::in_directory(SECRETS_DIR.into()),
            hooks: Hooks::watched(),
            clock: Clock::new(),
            is: None,
        }
    }

    fn reseed(&self, seed: &[u8]) -> Result<(), Failure> {
        let seed = seed.try_into().map_err(|_| {
            let (len, wanted) = (seed.len(), Identity::SEED_LEN);
            Failure::Refused(format!("the seed has {len} bytes, not {wanted}"))
        })?;
        match &self.random {
            Ok(random) => {
                ioctl::reseed(random.as_fd(), seed).map_err(|error| failed("/dev/urandom", error))
            }
            Err(error) => Err(failed("/dev/urandom", error)),
        }
    }
}

impl Machine for Pid1 {
    fn identify(
        &mut self,
        identity: &Identity,
        realtime_ns: u64,
        shares: &[(String, String, bool)],
        secrets: &Secrets,
    ) -> Result<(), Failure> {
        // The host has not heard the answer, and asks again.
        if self.is == Some(identity.token) {
            return Ok(());
        }
        self.reseed(&identity.seed)?;
        let name = identity.name.as_str();
        sethostname(name.as_bytes()).map_err(|error| failed("hostname", error))?;
        let set = self.clock.set(realtime_ns);
        set.map_err(|error| failed("clock", error))?;
        if let Some(network) = &identity.network {
            let set_up = self.nic.set_up(network);
            set_up.map_err(|error| failed("network", error))?;
        }
        for (tag, mount_point, read_only) in shares {
            mount_share(tag, mount_point, *read_only)?;
        }
        let written = self.pages.write(identity);
        written.map_err(|error| failed(RUN_DIR, error))?;
        let replaced = self.secret_files.replace(secrets);
        replaced.map_err(|error| failed(SECRETS_DIR, error))?;
        match identity.generation {
            0 => hide_boot_id(),
            _ => self.hooks.run(identity)?,
        }
        self.is = Some(identity.token);
        Ok(())
    }

    fn changes(&self) -> Option<BorrowedFd<'_>> {
        self.hooks.changes()
    }

    fn changed(&mut self) {
        self.hooks.changed();
    }

    fn settle(&mut self) {
        if let Err(error) = self.nic.settle() {
            log::error(format_args!(
                "connections of the machine this one was cloned from: {error}"
            ));
        }
    }

    fn follow_host(&mut self) {
        if let Err(error) = self.clock.follow() {
            log::error(format_args!("the clock cannot be set: {error}"));
        }
    }

    fn power_off(&mut self) {
        let deadline = Instant::now() + GRACE;
        let _ = signals::send(-1, libc::SIGTERM);
        // At least one step, in which the reply that announced this gets out.
        loop {
            thread::sleep(GRACE_STEP);
            while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
            let all_ended = matches!(wait(WaitOptions::NOHANG), Err(Errno::CHILD));
            if all_ended || Instant::now() > deadline {
                break;
            }
        }
        let _ = signals::send(-1, libc::SIGKILL);
        sync();
        // The monitor takes a reset as the end; there is no ACPI to switch off.
        if let Err(error) = reboot(RebootCommand::Restart) {
            log::error(format_args!("the machine cannot be ended: {error}"));
        }
    }
}

/// The kernel makes its boot identifier once; a file of ours covers it.
fn hide_boot_id() {
    const KERNELS: &str = "/proc/sys/kernel/random/boot_id";
    let ours = Path::new(RUN_DIR).join("boot-id");
    if let Err(error) = mount_bind(&ours, KERNELS) {
        log::error(format_args!("{KERNELS}: {error}"));
    }
}

fn mount_share(tag: &str, mount_point: &str, read_only: bool) -> Result<(), Failure> {
    fs::create_dir_all(mount_point).map_err(|error| failed(mount_point, error))?;
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    flags.set(MountFlags::RDONLY, read_only);
    let options = c"trans=virtio,version=9p2000.L";
    match mount(tag, mount_point, "9p", flags, options) {
        // The host asked twice.
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(error) => Err(failed(mount_point, error)),
    }
}

fn failed(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure::File {
        path: what.to_owned(),
        reason: error.to_string(),
    }
}
