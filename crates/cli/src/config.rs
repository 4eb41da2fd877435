//! The host library's configuration, from the environment.

use crate::ui::Progress;
use anyhow::{Context, anyhow, bail};
use hyperfork_api::VmName;
use hyperfork_host::program;
use hyperfork_host::{Config, PoolConfig, Program, RunDir, RunDirError, Settings, VmDir};
use hyperfork_net::Setup;
use hyperfork_net::address::Pool as AddressPool;
use std::env::VarError;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Environment variable: the most shells in stock; 0 for no pool.
const POOL_MAX: &str = "HYPERFORK_POOL_MAX";

/// Environment variable: 0 keeps shells from preloading the memory of a VM that was forked; 1, as
/// without it, does not.
const PRELOAD: &str = "HYPERFORK_PRIME";

/// Environment variable: the addresses of VMs with networks, such as `10.213.0.0/16`.
const ADDRESSES: &str = "HYPERFORK_NET_POOL";

/// The user's run directory: `$XDG_RUNTIME_DIR/hyperfork`, or, if that is unset,
/// `/run/hyperfork` (root) or `/tmp/hyperfork-$UID`. Made if missing, for the user alone.
///
/// # Errors
/// [`RunDirError::Relative`], [`RunDirError::Foreign`], [`RunDirError::Exposed`],
/// [`RunDirError::Io`].
pub(crate) fn run_dir() -> Result<RunDir, RunDirError> {
    let uid = rustix::process::getuid();
    RunDir::open(
        match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => Path::new(&dir).join("hyperfork"),
            None if uid.is_root() => PathBuf::from("/run/hyperfork"),
            None => PathBuf::from(format!("/tmp/hyperfork-{}", uid.as_raw())),
        },
    )
}

/// The directory of the VM called `name`.
///
/// # Errors
/// As [`run_dir`].
pub(crate) fn vm(name: &VmName) -> Result<VmDir, RunDirError> {
    Ok(run_dir()?.vm(name))
}

/// How VMs are run.
///
/// # Errors
/// As [`run_dir`]; a variable's value is not valid; the program of VMs is missing.
pub(crate) fn host() -> anyhow::Result<Config> {
    Ok(Config {
        run_dir: run_dir()?,
        program: program()?,
        settings: Settings {
            pool: pool()?,
            addresses: addresses()?,
        },
    })
}

fn pool() -> anyhow::Result<PoolConfig> {
    let PoolConfig { most, preload } = PoolConfig::DEFAULT;
    Ok(PoolConfig {
        most: match variable(POOL_MAX)? {
            Some(value) => value
                .parse()
                .with_context(|| format!("{POOL_MAX}={value} is not a number of shells"))?,
            None => most,
        },
        preload: match variable(PRELOAD)?.as_deref() {
            Some("0") => false,
            Some("1") => true,
            Some(value) => bail!("{PRELOAD}={value} is neither 0 nor 1"),
            None => preload,
        },
    })
}

/// The value of an environment variable, if it is set.
///
/// # Errors
/// It is not Unicode.
fn variable(name: &str) -> anyhow::Result<Option<String>> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(VarError::NotPresent) => Ok(None),
        Err(error) => Err(error).context(name.to_owned()),
    }
}

/// The setup of the VMs' networks, which this program serves.
///
/// # Errors
/// A variable's value is not valid.
pub(crate) fn network(program: &Program) -> anyhow::Result<Setup> {
    Ok(Setup {
        pool: addresses()?,
        program: program.path().to_owned(),
    })
}

/// The program of VMs. `cargo run` builds one program of a package only, so in a checkout that is
/// fresh or has changed the other one is built here.
///
/// # Errors
/// It is missing, cannot be run, or is of another build.
pub(crate) fn program() -> anyhow::Result<Program> {
    program_of_this_build().or_else(|unfit| match build_program() {
        Some(built) => built.and_then(|()| program_of_this_build()),
        None => Err(unfit),
    })
}

/// The program that is installed beside this one and was built from the same sources.
fn program_of_this_build() -> anyhow::Result<Program> {
    let program = Program::beside_this_one()?;
    let path = program.path().display();
    let build = program
        .build()
        .with_context(|| format!("cannot run {path}"))?;
    match build == env!("HYPERFORK_BUILD") {
        true => Ok(program),
        false => Err(anyhow!(
            "{path} is of another build than this program: install both together"
        )),
    }
}

/// Has the cargo that runs this program build the other one; `None` if no cargo runs it.
fn build_program() -> Option<anyhow::Result<()>> {
    let cargo = std::env::var_os("CARGO")?;
    let package = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR")?);
    let own = std::env::current_exe().ok()?;
    let directory = own.parent()?;
    let profile = match directory.file_name()?.to_str()? {
        "debug" => "dev",
        profile => profile,
    };
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--locked", "--bin", program::NAME])
        .args(["--profile", profile, "--manifest-path"])
        .arg(package.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(directory.parent()?)
        .stdin(Stdio::null());
    let _step = Progress::unless(false).step(&format!("building {}", program::NAME));
    let built = command.status().context("cannot start cargo");
    Some(built.and_then(|status| match status.success() {
        true => Ok(()),
        false => Err(anyhow!("cannot build {}: {status}", program::NAME)),
    }))
}

fn addresses() -> anyhow::Result<AddressPool> {
    match variable(ADDRESSES)? {
        Some(text) => text
            .parse()
            .map_err(|error| anyhow!("{ADDRESSES}: {error}")),
        None => Ok(AddressPool::DEFAULT),
    }
}
