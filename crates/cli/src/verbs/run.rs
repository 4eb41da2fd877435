//! `run`.

use super::launch::{boot, free_name};
use super::{NANO, ensure_image, network};
use crate::args::{Net, Run, Usage};
use crate::config;
use crate::exit;
use crate::guest::{Output, set};
use crate::interrupt::Interrupt;
use crate::ui::{self, Progress};
use anyhow::{Context, bail};
use hyperfork_api::control::WaitExit;
use hyperfork_api::frame;
use hyperfork_api::guest::{Command, Request, Stream};
use hyperfork_api::spec::{Disk, DiskFormat, Guest, LinuxGuest};
use hyperfork_api::{VmInfo, VmSpec};
use hyperfork_host::agent::{Agent, AgentError};
use hyperfork_host::lifecycle::{self, EndError};
use hyperfork_host::{Client, ClientError, Config, VmDir, pool};
use hyperfork_vmm::kvm::Host;
use std::fs;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;
use tempfile::TempPath;

/// The image that is booted if none is named: the smallest that can run commands.
const DEFAULT_IMAGE: &str = "base";

/// Disks that fit beside what each VM has, with a network and a shared directory.
const DISKS_MAX: usize = 7;

/// How long a guest has to power off when its command has ended.
const GRACE: Duration = Duration::from_secs(10);

/// Boots a VM, and follows it unless it is to be detached.
///
/// # Errors
/// The VM does not become ready, or fails.
pub(crate) fn run(mut args: Run) -> anyhow::Result<u8> {
    check(&args)?;
    let secrets = mem::take(&mut args.secrets).into_values();
    let progress = Progress::unless(args.quiet);
    let interrupt = Interrupt::catch().context("cannot catch signals")?;
    // Without KVM, an image need not be made first.
    Host::open()?;
    let host = config::host()?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => free_name(&host.run_dir)?,
    };
    let mut guest = guest(&args, &host, progress, &interrupt)?;
    // The VM has the file open, so its name can go when this is dropped.
    let _sized = size_root(&args, &mut guest)?;
    let spec = VmSpec {
        name: name.clone(),
        cpus: args.cpus,
        memory: args.memory,
        guest,
        image: image_name(&args),
        max_forks: args.max_forks,
        identical_clones: args.identical_clones,
        ready_timeout_ms: super::milliseconds(args.ready_timeout),
    };
    boot(&host, &spec, secrets, progress, &interrupt)?;
    if args.detach {
        ui::line(&name)?;
        return Ok(exit::OK);
    }
    let dir = host.run_dir.vm(&name);
    let followed = match args.command.is_empty() {
        true => idle(&dir, &spec, &interrupt),
        false => follow(&dir, &interrupt),
    };
    leave(&dir, args.rm).and(followed)
}

/// Checks what clap cannot check.
fn check(args: &Run) -> Result<(), Usage> {
    let nano = args.image.as_deref() == Some(NANO);
    let no_agent = nano || (args.kernel.is_some() && args.image.is_none());
    let usage = |text: &str| Err(Usage(text.to_owned()));
    if no_agent && !args.command.is_empty() {
        return usage(
            "this guest has no agent that could run a command: leave it out, or choose an image with --image",
        );
    }
    if no_agent && !args.volumes.is_empty() {
        return usage(
            "this guest has no agent that could mount a volume: choose an image with --image",
        );
    }
    if no_agent && !args.secrets.is_empty() {
        return usage(
            "this guest has no agent that could take secrets: choose an image with --image",
        );
    }
    if args.identical_clones && (nano || !no_agent) {
        return usage(
            "--identical-clones is for a guest without an agent: this one's clones are told who they are",
        );
    }
    let network = args.net.is_some_and(|net| net != Net::None) || args.asks_for_network();
    if no_agent && network {
        return usage(
            "this guest has no agent that could set up a network: leave out --net, -p and --egress, or choose an image with --image",
        );
    }
    if args.net == Some(Net::None) && args.asks_for_network() {
        return usage(
            "a VM without a network publishes no ports and makes no connections: leave out --net none, or -p and --egress",
        );
    }
    args.egress()?;
    if nano && args.disk_size.is_some() {
        return usage("the image nano has no disk: leave out --disk-size, or choose another image");
    }
    if nano && !args.disks.is_empty() {
        return usage(
            "the image nano has no driver for disks: leave out --disk, or choose another image",
        );
    }
    if args.disks.len() > DISKS_MAX {
        return usage(&format!(
            "a VM has room for {DISKS_MAX} disks beside its own"
        ));
    }
    if nano && args.kernel.is_some() {
        return usage("the image nano has no kernel: leave out --kernel, or choose another image");
    }
    if nano && let Err(word) = hyperfork_nano::Options::parse(&args.append) {
        return usage(&format!(
            "the embedded guest does not understand '{word}': see `hyperfork run --help`"
        ));
    }
    if args.command.is_empty() && !args.variables().is_empty() {
        return usage("-e sets variables for a command: give one after --");
    }
    Ok(())
}

/// The image's name, for listings.
fn image_name(args: &Run) -> String {
    match (&args.image, &args.kernel) {
        (Some(image), _) => image.clone(),
        (None, Some(kernel)) => kernel.display().to_string(),
        (None, None) => DEFAULT_IMAGE.to_owned(),
    }
}

fn guest(
    args: &Run,
    host: &Config,
    progress: Progress,
    interrupt: &Interrupt,
) -> anyhow::Result<Guest> {
    if args.image.as_deref() == Some(NANO) {
        return Ok(Guest::Nano {
            options: args.append.clone(),
        });
    }
    let kernel = args.kernel.as_deref().map(file).transpose()?;
    let initrd = args.initrd.as_deref().map(file).transpose()?;
    let (Some(kernel), None) = (&kernel, &args.image) else {
        let image = ensure_image(&image_name(args), progress, interrupt)?;
        let mut linux = linux_from(&image, command(args, image.environment.env.clone()));
        linux.kernel = kernel.unwrap_or(linux.kernel);
        linux.initrd = initrd;
        linux.disks.extend_from_slice(&args.disks);
        linux.shares.clone_from(&args.volumes);
        linux.network = network::wanted(args, &host.network())?;
        linux.cmdline = format!("{} {}", linux.cmdline, args.append)
            .trim()
            .to_owned();
        return Ok(Guest::Linux(linux));
    };
    Ok(Guest::Linux(LinuxGuest {
        kernel: kernel.clone(),
        initrd,
        cmdline: args.append.clone(),
        disks: args.disks.clone(),
        shares: Vec::new(),
        network: None,
        agent: false,
        command: None,
    }))
}

/// Gives a guest a root disk of the size asked for: a copy, as long as the result lives.
fn size_root(args: &Run, guest: &mut Guest) -> anyhow::Result<Option<TempPath>> {
    let (Some(size), Guest::Linux(guest)) = (args.disk_size, guest) else {
        return Ok(None);
    };
    let dir = match Path::new("/var/tmp") {
        dir if dir.is_dir() => dir.to_owned(),
        _ => std::env::temp_dir(),
    };
    let copy = tempfile::Builder::new()
        .prefix(".hyperfork-root-")
        .tempfile_in(dir);
    let copy = copy.context("cannot make a root disk")?.into_temp_path();
    hyperfork_image::resize(&guest.disks[0].path, size.0, &copy)
        .with_context(|| format!("cannot make a root disk of {size}"))?;
    guest.disks[0].path = copy.to_path_buf();
    Ok(Some(copy))
}

/// A guest that boots an image.
pub(crate) fn linux_from(image: &hyperfork_image::Image, command: Option<Command>) -> LinuxGuest {
    LinuxGuest {
        kernel: image.kernel.clone(),
        initrd: None,
        cmdline: "root=/dev/vda rw init=/usr/lib/hyperfork/agent".to_owned(),
        disks: vec![Disk {
            path: image.rootfs.clone(),
            format: Some(DiskFormat::Raw),
            read_only: false,
        }],
        shares: Vec::new(),
        network: None,
        agent: true,
        command,
    }
}

fn command(args: &Run, mut env: Vec<(String, String)>) -> Option<Command> {
    set(&mut env, args.variables());
    (!args.command.is_empty()).then(|| Command {
        argv: args.command.clone(),
        env,
        cwd: None,
        tty: None,
        stdin: false,
    })
}

/// The absolute path of a file for the VM's process, which has another working directory.
fn file(path: &Path) -> anyhow::Result<PathBuf> {
    let there = || format!("cannot read {}", path.display());
    let path = fs::canonicalize(path).with_context(there)?;
    fs::File::open(&path).with_context(there)?;
    if !path.is_file() {
        bail!("{} is not a file", path.display());
    }
    Ok(path)
}

/// Waits for the end of a VM that has no command.
fn idle(dir: &VmDir, spec: &VmSpec, interrupt: &Interrupt) -> anyhow::Result<u8> {
    ui::line(dir.name())?;
    let hint = match &spec.guest {
        Guest::Linux(LinuxGuest { agent: true, .. }) => {
            format!("is ready: hyperfork exec -it {} -- sh", dir.name())
        }
        _ => format!("is running: hyperfork logs -f {}", dir.name()),
    };
    ui::note(&format!("{} {hint}   (Ctrl-C stops it)", dir.name()));
    let (ended, end) = channel();
    let mut client = Client::connect(dir)?;
    thread::spawn(move || drop(ended.send(client.ask(WaitExit {}))));
    loop {
        if let Err(interrupted) = interrupt.check() {
            return Ok(exit::by_signal(interrupted.0));
        }
        match end.recv_timeout(Duration::from_millis(100)) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Ok(info)) => return Ok(status_in(&info)?.unwrap_or(exit::OK)),
            // The VM has ended without an answer, and may have been removed.
            _ => {
                return dir.info().map_or(Ok(exit::OK), |info| {
                    Ok(status_in(&info)?.unwrap_or(exit::OK))
                });
            }
        }
    }
}

/// Shows the main program's output until the program ends; returns its exit status.
fn follow(dir: &VmDir, interrupt: &Interrupt) -> anyhow::Result<u8> {
    let signals = pass_signals_on(dir.clone(), interrupt.clone());
    let mut output = Output::default();
    loop {
        match follow_once(dir, &mut output) {
            Ok(Some(status)) => return Ok(exit::of_program(status)),
            Err(error) if error.is::<ui::StdoutClosed>() => return Err(error),
            Err(_) | Ok(None) => {}
        }
        // The connection broke, but the program may still run.
        match exit_status(dir)? {
            Some(status) => return Ok(status),
            None if signals.is_finished() => {
                return Ok(exit::by_signal(signal_hook::consts::SIGKILL));
            }
            None if !dir.is_alive() => bail!("{} was stopped", dir.name()),
            None => thread::sleep(Duration::from_millis(200)),
        }
    }
}

fn follow_once(dir: &VmDir, output: &mut Output) -> anyhow::Result<Option<i32>> {
    let mut agent = Agent::connect(dir)?;
    agent.request(&Request::FollowMain {
        from: Some(output.passed),
    })?;
    let mut connection = agent.into_stream();
    while let Some(message) = frame::read(&mut connection)? {
        match message {
            Stream::Exited(status) => return Ok(Some(status)),
            message => output.write(&message)?,
        };
    }
    Ok(None)
}

/// How the main program ended, if it has.
///
/// # Errors
/// As [`status_in`], or the VM is gone.
fn exit_status(dir: &VmDir) -> anyhow::Result<Option<u8>> {
    status_in(&dir.info()?)
}

/// # Errors
/// The VM failed, for this reason.
fn status_in(info: &VmInfo) -> anyhow::Result<Option<u8>> {
    match (info.status.exit_status, &info.status.error) {
        (Some(status), _) => Ok(Some(exit::of_program(status))),
        (None, Some(error)) => bail!("{} failed: {error}", info.about.name),
        (None, None) => Ok(None),
    }
}

/// Forwards the first signal to the main program; the second ends the VM.
fn pass_signals_on(dir: VmDir, interrupt: Interrupt) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let signal = interrupt.next();
        let sent = Agent::connect(&dir).and_then(|mut agent| {
            agent
                .set_timeout(Some(Duration::from_secs(5)))
                .map_err(AgentError::Unreachable)?;
            agent.request(&Request::SignalMain(signal))
        });
        if sent.is_ok() {
            interrupt.next();
        }
        let _ = lifecycle::stop(&dir, Duration::ZERO);
    })
}

/// Stops the VM, if it has not ended, and removes it if requested.
fn leave(dir: &VmDir, remove: bool) -> anyhow::Result<()> {
    match lifecycle::stop(dir, GRACE) {
        Ok(()) => {}
        // Another command has removed it.
        Err(EndError::Client(ClientError::Unknown { .. })) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    if remove {
        match dir.remove() {
            Err(error) if dir.exists() => return Err(error.into()),
            _ => pool::clear_up(&config::run_dir()?),
        }
    }
    Ok(())
}
