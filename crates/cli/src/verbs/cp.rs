//! `cp`.

use super::exec::must_answer;
use crate::args::{Cp, Place, Usage};
use crate::config;
use crate::exit;
use crate::guest::{Incoming, Outgoing, pack, resolve, unpack};
use crate::ui::{Progress, StdoutClosed};
use anyhow::{Context, bail};
use hyperfork_api::VmName;
use hyperfork_api::control::ExportDisk;
use hyperfork_api::frame;
use hyperfork_api::guest::{Request, Stream};
use hyperfork_host::Client;
use hyperfork_host::agent::Agent;
use std::io::{self, BufReader, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Copies between host and guest.
///
/// # Errors
/// It cannot be copied; what was copied until then may stay.
pub(crate) fn run(args: Cp) -> anyhow::Result<u8> {
    let step = |how, vm| Progress::unless(false).step(&format!("copying {how} {vm}"));
    match (args.source, args.target) {
        (Place::Guest(vm, path), Place::Host(target)) => {
            // Before the guest is asked for anything.
            let target = resolve(&target)?;
            let _step = step("from", &vm);
            copy_out(&vm, path, |archive| unpack(archive, &target))?;
        }
        (Place::Guest(vm, path), Place::Archive) => {
            if io::stdout().is_terminal() {
                bail!("an archive is not for a terminal: redirect standard output");
            }
            copy_out(&vm, path, to_stdout)?;
        }
        (Place::Host(source), Place::Guest(vm, path)) => {
            let _step = step("to", &vm);
            copy_in(&vm, path, |archive| pack(&source, archive))?;
        }
        (Place::Archive, Place::Guest(vm, path)) => {
            copy_in(&vm, path, |archive| {
                io::copy(&mut io::stdin().lock(), archive)?;
                Ok(())
            })?;
        }
        (Place::Disk(vm, device), Place::Host(target)) => {
            let _step = step("from", &vm);
            copy_disk(&vm, device, &target)?;
        }
        (Place::Disk(..), _) | (_, Place::Disk(..)) => {
            return Err(Usage("a disk is copied into a file on this host, only".to_owned()).into());
        }
        _ => return Err(Usage("one of SRC and DST must be in a guest: VM:PATH".to_owned()).into()),
    }
    Ok(exit::OK)
}

/// Has the VM's process write its disk, since that process alone has the disk's layers.
fn copy_disk(vm: &VmName, device: String, target: &Path) -> anyhow::Result<()> {
    let path = match target.is_dir() {
        true => target.join(&device),
        false => target.to_owned(),
    };
    let path = resolve(&path)?;
    let path =
        std::path::absolute(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let dir = config::vm(vm)?;
    Client::connect(&dir)?.ask(ExportDisk { device, path })?;
    Ok(())
}

fn copy_out(
    vm: &VmName,
    path: String,
    receive: impl FnOnce(&mut Incoming<BufReader<UnixStream>>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let connection = begin(vm, &Request::CopyOut { path })?;
    receive(&mut Incoming::new(BufReader::new(connection)))
}

fn copy_in(
    vm: &VmName,
    path: String,
    send: impl FnOnce(&mut Outgoing<&UnixStream>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut connection = begin(vm, &Request::CopyIn { path })?;
    let mut archive = Outgoing::new(&connection);
    send(&mut archive)?;
    archive.finish()?;
    match frame::read(&mut connection).context("the guest is lost")? {
        Some(Stream::DataEnd) => Ok(()),
        Some(Stream::Failed(failure)) => Err(failure.into()),
        _ => bail!("the guest closed the connection"),
    }
}

fn begin(vm: &VmName, request: &Request) -> anyhow::Result<UnixStream> {
    let dir = config::vm(vm)?;
    must_answer(&dir.info()?)?;
    let mut agent = Agent::connect(&dir).with_context(|| format!("cannot copy with {vm}"))?;
    agent.request(request)?;
    Ok(agent.into_stream())
}

fn to_stdout(archive: &mut Incoming<BufReader<UnixStream>>) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let copied = io::copy(archive, &mut stdout).and_then(|_| stdout.flush());
    match copied {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
        copied => Ok(copied?),
    }
}
