//! `inspect`.

use crate::args::Inspect;
use crate::config;
use crate::{exit, ui};
use anyhow::Context;
use std::fs;

/// Prints a VM's description, or its token alone.
///
/// # Errors
/// There is no such VM, or it has no token.
pub(crate) fn run(args: &Inspect) -> anyhow::Result<u8> {
    let dir = config::vm(&args.vm)?;
    let info = dir.info()?;
    if args.token {
        let token = fs::read_to_string(dir.token_path());
        let token = token.with_context(|| format!("{} has no token", args.vm))?;
        ui::line(token.trim_end())?;
    } else {
        ui::json(&info)?;
    }
    Ok(exit::OK)
}
