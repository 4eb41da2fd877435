//! Validation of VM specifications.

use super::{Guest, LinuxGuest, VmSpec};
use crate::egress::BadEgress;
use crate::guest::Command;
use crate::port::PublishedPort;
use crate::{Bytes, Network};
use std::path::{Path, PathBuf};

/// Longest addition to the kernel's command line, in bytes: the kernel's own limit for all of it.
const CMDLINE_MAX: usize = 2047;

/// Why a specification is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Too few or too many CPUs.
    #[error("a VM has 1 to {max} CPUs, not {0}", max = VmSpec::MAX_CPUS)]
    Cpus(u8),
    /// Too little, too much, or an odd amount of memory.
    #[error(
        "a VM has {least} to {most} of memory, in steps of {step}, not {0}",
        least = VmSpec::MIN_MEMORY,
        most = VmSpec::MAX_MEMORY,
        step = VmSpec::MEMORY_STEP
    )]
    Memory(Bytes),
    /// Too many devices.
    #[error(
        "disks, shared directories and what every VM has come to {0} devices: a VM has room for \
         {max}",
        max = VmSpec::MAX_DEVICES
    )]
    Devices(usize),
    /// A kernel's command line ends at a NUL.
    #[error("the kernel's command line has a NUL character in it")]
    CommandLine,
    /// A kernel's command line is limited.
    #[error("the kernel's command line may have {CMDLINE_MAX} bytes, not {0}")]
    CommandLineLength(usize),
    /// A relative path: the VM's process has another working directory than the caller.
    #[error("{0} is not an absolute path: the VM's process works in another directory")]
    Path(PathBuf),
    /// Nothing can be mounted there.
    #[error("a directory cannot be shared to '{0}' in the guest: name an absolute path below /")]
    MountPoint(String),
    /// Something that takes an agent, which the guest has not.
    #[error("this guest has no agent, which {0} takes")]
    NoAgent(&'static str),
    /// Clones that get an identity are not identical.
    #[error("identical clones are for a guest without an agent: this one's are told who they are")]
    IdenticalClones,
    /// No program, or one that the agent cannot start.
    #[error("the command is not one: it needs a program, and has no NUL characters")]
    Command,
    /// A variable that cannot be in an environment.
    #[error(
        "'{0}' cannot be a variable's name: it has a '=' or a NUL character, or nothing at all"
    )]
    Variable(String),
    /// Ports of guests begin with 1.
    #[error("port 0 of a guest cannot be published")]
    GuestPort,
    /// One port of the host for two ports of the guest.
    #[error("port {host} of {address} ({protocol}) is published twice",
        host = .0.host, address = .0.address, protocol = .0.protocol)]
    PortTwice(PublishedPort),
    /// Nothing would ever pass.
    #[error("a network needs a rate of 1 byte a second at least")]
    Rate,
    /// The egress policy is not valid.
    #[error(transparent)]
    Egress(#[from] BadEgress),
}

impl VmSpec {
    /// Checks the specification. Every party that receives one does so: the command line has
    /// checked it already, but another client may not have.
    ///
    /// # Errors
    /// [`SpecError`], the first that is found.
    pub fn check(&self) -> Result<(), SpecError> {
        check_size(self.cpus, self.memory)?;
        let can_be_told = match &self.guest {
            Guest::Nano { options } => {
                check_cmdline(options)?;
                true
            }
            Guest::Linux(guest) => {
                guest.check()?;
                guest.agent
            }
        };
        match self.identical_clones && can_be_told {
            true => Err(SpecError::IdenticalClones),
            false => Ok(()),
        }
    }
}

/// Checks that a VM may have so many CPUs and so much memory.
///
/// # Errors
/// [`SpecError::Cpus`], [`SpecError::Memory`].
pub fn check_size(cpus: u8, memory: Bytes) -> Result<(), SpecError> {
    if !(1..=VmSpec::MAX_CPUS).contains(&cpus) {
        return Err(SpecError::Cpus(cpus));
    }
    let possible = VmSpec::MIN_MEMORY..=VmSpec::MAX_MEMORY;
    if !possible.contains(&memory) || !memory.0.is_multiple_of(VmSpec::MEMORY_STEP.0) {
        return Err(SpecError::Memory(memory));
    }
    Ok(())
}

impl LinuxGuest {
    fn check(&self) -> Result<(), SpecError> {
        let devices = self.devices();
        if devices > VmSpec::MAX_DEVICES {
            return Err(SpecError::Devices(devices));
        }
        check_cmdline(&self.cmdline)?;
        let disks = self.disks.iter().map(|disk| &disk.path);
        let shares = self.shares.iter().map(|share| &share.path);
        let files = [&self.kernel].into_iter().chain(&self.initrd);
        for path in files.chain(disks).chain(shares) {
            check_path(path)?;
        }
        for share in &self.shares {
            check_mount_point(&share.mount_point)?;
        }
        if let Some(what) = self.needs_agent().filter(|_| !self.agent) {
            return Err(SpecError::NoAgent(what));
        }
        self.command.as_ref().map_or(Ok(()), Command::check)?;
        self.network.as_ref().map_or(Ok(()), Network::check)
    }

    /// The first of its features that takes an agent.
    fn needs_agent(&self) -> Option<&'static str> {
        if self.command.is_some() {
            return Some("a command");
        }
        if !self.shares.is_empty() {
            return Some("a shared directory");
        }
        self.network.is_some().then_some("a network")
    }
}

fn check_cmdline(cmdline: &str) -> Result<(), SpecError> {
    if cmdline.contains('\0') {
        return Err(SpecError::CommandLine);
    }
    match cmdline.len() {
        ..=CMDLINE_MAX => Ok(()),
        len => Err(SpecError::CommandLineLength(len)),
    }
}

fn check_path(path: &Path) -> Result<(), SpecError> {
    match path.is_absolute() {
        true => Ok(()),
        false => Err(SpecError::Path(path.to_owned())),
    }
}

fn check_mount_point(path: &str) -> Result<(), SpecError> {
    let is_below_root = path.starts_with('/') && path.chars().any(|c| c != '/' && c != '.');
    match is_below_root && !path.contains('\0') {
        true => Ok(()),
        false => Err(SpecError::MountPoint(path.to_owned())),
    }
}

impl Command {
    fn check(&self) -> Result<(), SpecError> {
        let is_program = self.argv.first().is_some_and(|program| !program.is_empty());
        let values = self.env.iter().map(|(_, value)| value);
        let mut texts = self.argv.iter().chain(&self.cwd).chain(values);
        if !is_program || texts.any(|text| text.contains('\0')) {
            return Err(SpecError::Command);
        }
        let is_bad = |name: &&String| name.is_empty() || name.contains(['=', '\0']);
        let mut names = self.env.iter().map(|(name, _)| name);
        match names.find(is_bad) {
            Some(name) => Err(SpecError::Variable(name.clone())),
            None => Ok(()),
        }
    }
}

impl Network {
    fn check(&self) -> Result<(), SpecError> {
        self.kind.egress.check()?;
        if self.bytes_per_s == Some(0) {
            return Err(SpecError::Rate);
        }
        for (at, port) in self.ports.iter().enumerate() {
            if port.guest == 0 {
                return Err(SpecError::GuestPort);
            }
            let here = |p: &PublishedPort| (p.protocol, p.address, p.host);
            // Port 0 is any free one.
            let is_same = |other: &PublishedPort| port.host != 0 && here(other) == here(port);
            if self.ports[..at].iter().any(is_same) {
                return Err(SpecError::PortTwice(*port));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::{Destination, Egress, Place};
    use crate::port::Protocol;
    use crate::spec::{Disk, Share};
    use crate::{NetKind, VmName};
    use std::net::Ipv4Addr;

    fn spec() -> VmSpec {
        VmSpec {
            name: VmName::new("p").unwrap(),
            cpus: 1,
            memory: Bytes::mib(64),
            guest: Guest::Linux(LinuxGuest {
                kernel: "/kernel".into(),
                initrd: None,
                cmdline: "quiet".to_owned(),
                disks: vec![disk("/disk")],
                shares: vec![share("/srv", "/data")],
                network: Some(network(vec![port(8080, 80), port(0, 81), port(0, 82)])),
                agent: true,
                command: Some(command(&["true"])),
            }),
            image: "base".to_owned(),
            max_forks: None,
            identical_clones: false,
            ready_timeout_ms: 1000,
        }
    }

    fn disk(path: &str) -> Disk {
        Disk {
            path: path.into(),
            format: None,
            read_only: false,
        }
    }

    fn share(path: &str, mount_point: &str) -> Share {
        Share {
            path: path.into(),
            mount_point: mount_point.to_owned(),
            read_only: false,
        }
    }

    fn command(argv: &[&str]) -> Command {
        Command {
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            env: vec![("A".to_owned(), "1=2".to_owned())],
            cwd: None,
            tty: None,
            stdin: false,
        }
    }

    fn network(ports: Vec<PublishedPort>) -> Network {
        Network {
            kind: NetKind::default(),
            ports,
            bytes_per_s: None,
        }
    }

    fn port(host: u16, guest: u16) -> PublishedPort {
        PublishedPort {
            protocol: Protocol::Tcp,
            address: Ipv4Addr::LOCALHOST,
            host,
            guest,
        }
    }

    /// The error that `change` causes in a valid specification.
    fn found(change: impl FnOnce(&mut LinuxGuest)) -> SpecError {
        let mut spec = spec();
        assert_eq!(spec.check(), Ok(()));
        let Guest::Linux(guest) = &mut spec.guest else {
            panic!("a Linux guest");
        };
        change(guest);
        spec.check().unwrap_err()
    }

    #[test]
    fn a_size_that_no_vm_has_is_refused() {
        for cpus in [0, 9] {
            let refused = VmSpec { cpus, ..spec() }.check();
            assert_eq!(refused, Err(SpecError::Cpus(cpus)));
        }
        for memory in [Bytes(0), Bytes::mib(65), Bytes::mib(62), Bytes(u64::MAX)] {
            let refused = VmSpec { memory, ..spec() }.check();
            assert_eq!(refused, Err(SpecError::Memory(memory)));
        }
    }

    #[test]
    fn files_are_named_by_absolute_paths() {
        let relative = || SpecError::Path("x".into());
        assert_eq!(found(|guest| guest.kernel = "x".into()), relative());
        assert_eq!(found(|guest| guest.initrd = Some("x".into())), relative());
        assert_eq!(found(|guest| guest.disks.push(disk("x"))), relative());
        assert_eq!(found(|guest| guest.shares[0].path = "x".into()), relative());
    }

    #[test]
    fn a_directory_is_shared_to_a_place_below_the_guests_root() {
        for bad in ["", "/", "//", "/.", "/..", "data", "/a\0b"] {
            let refused = found(|guest| guest.shares.push(share("/srv", bad)));
            assert_eq!(refused, SpecError::MountPoint(bad.to_owned()));
        }
    }

    #[test]
    fn there_are_not_more_devices_than_interrupt_lines() {
        let refused = found(|guest| guest.disks = vec![disk("/disk"); 9]);
        assert_eq!(refused, SpecError::Devices(15));
    }

    #[test]
    fn a_kernels_command_line_is_what_a_kernel_can_read() {
        let refused = found(|guest| guest.cmdline = "a\0b".to_owned());
        assert_eq!(refused, SpecError::CommandLine);
        let refused = found(|guest| guest.cmdline = "x".repeat(2048));
        assert_eq!(refused, SpecError::CommandLineLength(2048));
        let options = "touch_mib=1\0".to_owned();
        let guest = Guest::Nano { options };
        let refused = VmSpec { guest, ..spec() }.check();
        assert_eq!(refused, Err(SpecError::CommandLine));
    }

    #[test]
    fn what_takes_an_agent_is_refused_without_one() {
        let refused = found(|guest| guest.agent = false);
        assert_eq!(refused, SpecError::NoAgent("a command"));
        let refused = found(|guest| (guest.agent, guest.command) = (false, None));
        assert_eq!(refused, SpecError::NoAgent("a shared directory"));
        let refused = found(|guest| {
            (guest.agent, guest.command) = (false, None);
            guest.shares.clear();
        });
        assert_eq!(refused, SpecError::NoAgent("a network"));
        let spec = VmSpec {
            identical_clones: true,
            ..spec()
        };
        assert_eq!(spec.check(), Err(SpecError::IdenticalClones));
    }

    #[test]
    fn a_command_is_a_program_and_its_variables_have_names() {
        for bad in [&[][..], &[""], &["true", "a\0b"]] {
            let refused = found(|guest| guest.command = Some(command(bad)));
            assert_eq!(refused, SpecError::Command);
        }
        for bad in ["", "A=B", "A\0"] {
            let refused = found(|guest| {
                let command = guest.command.as_mut().unwrap();
                command.env.push((bad.to_owned(), String::new()));
            });
            assert_eq!(refused, SpecError::Variable(bad.to_owned()));
        }
    }

    #[test]
    fn a_port_is_published_once_and_is_one() {
        let set = |ports| found(|guest| guest.network = Some(network(ports)));
        assert_eq!(set(vec![port(80, 0)]), SpecError::GuestPort);
        let twice = set(vec![port(80, 1), port(81, 1), port(80, 2)]);
        assert_eq!(twice, SpecError::PortTwice(port(80, 2)));
    }

    #[test]
    fn a_network_that_lets_nothing_pass_or_connects_to_no_addresses_is_refused() {
        let rate = found(|guest| guest.network.as_mut().unwrap().bytes_per_s = Some(0));
        assert_eq!(rate, SpecError::Rate);
        let place = |base: [u8; 4], prefix, ports| {
            Destination::Place(Place {
                base: base.into(),
                prefix,
                ports,
                protocol: None,
            })
        };
        for bad in [
            vec![place([10, 0, 0, 0], 33, None)],
            vec![place([10, 0, 0, 1], 8, None)],
            vec![place([10, 0, 0, 0], 8, Some((0, 1)))],
            vec![place([10, 0, 0, 0], 8, Some((2, 1)))],
            vec![Destination::Dns; Egress::MOST + 1],
        ] {
            let refused = found(|guest| {
                guest.network.as_mut().unwrap().kind.egress = Egress::Only(bad);
            });
            assert!(matches!(refused, SpecError::Egress(_)), "{refused}");
        }
    }
}
