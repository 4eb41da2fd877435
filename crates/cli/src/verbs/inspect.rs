//! `inspect`.

use crate::args::Inspect;
use crate::config;
use crate::{exit, ui};
use anyhow::{Context, bail};
use std::fs;
use std::io::ErrorKind;

/// Prints a VM's description, or its token alone.
///
/// # Errors
/// There is no such VM, or it has no token.
pub(crate) fn run(args: &Inspect) -> anyhow::Result<u8> {
    let dir = config::vm(&args.vm)?;
    let info = dir.info()?;
    if args.token {
        match fs::read_to_string(dir.token_path()) {
            Ok(token) => ui::line(token.trim_end())?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("{} has no token: VMs without an agent have none", args.vm)
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read the token of {}", args.vm));
            }
        }
    } else {
        ui::json(&info)?;
    }
    Ok(exit::OK)
}
