//! The files that a VM leaves in its directory for others to read: its description, which
//! outlives its process, and its token.

use crate::run_dir::VmDir;
use hyperfork_api::spec::Guest;
use hyperfork_api::{Identity, VmAbout, VmInfo, VmName, VmSpec, VmStatus, VmUsage};
use hyperfork_sys::fault;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

/// The description of a VM that is just starting.
pub fn initial_info(spec: &VmSpec, identity: &Identity, parent: Option<VmName>) -> VmInfo {
    let command = match &spec.guest {
        Guest::Linux(guest) => guest.command.as_ref().map(|command| command.argv.clone()),
        Guest::Nano { .. } => None,
    };
    let kind = spec.guest.network().map(|network| &network.kind);
    let about = VmAbout {
        name: identity.name.clone(),
        image: spec.image.clone(),
        cpus: spec.cpus,
        memory_mib: spec.memory.as_mib(),
        parent,
        generation: identity.generation,
        index: identity.index,
        cid: identity.cid,
        machine_id: identity.machine_id.to_string(),
        net: kind.map(|kind| kind.mode),
        egress: kind.map(|kind| kind.egress.to_strings()),
        created_unix_ms: hyperfork_sys::clock::unix_ms(),
        max_forks: spec.max_forks,
        command,
    };
    VmInfo {
        about,
        status: VmStatus::starting(),
        usage: VmUsage::default(),
    }
}

/// Writes the description to the VM's directory, atomically.
///
/// # Errors
/// The file system's.
pub fn write_info(dir: &VmDir, info: &VmInfo) -> io::Result<()> {
    fault::point("clone.record")?;
    let path = dir.info_path();
    let temporary = path.with_extension("json.new");
    fs::write(&temporary, serde_json::to_vec_pretty(info)?)?;
    fs::rename(&temporary, &path)
}

/// Writes the token that proves a party to be this VM, readable by the VM's user alone. No
/// listing has it.
///
/// # Errors
/// The file system's.
pub fn write_token(dir: &VmDir, identity: &Identity) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(dir.token_path())?;
    writeln!(file, "{}", identity.token)
}
