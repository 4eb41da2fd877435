//! `inspect`.

use crate::args::Inspect;
use crate::config;
use crate::{exit, ui};

/// Prints all there is to know about a VM.
///
/// # Errors
/// There is no such VM.
pub(crate) fn run(args: &Inspect) -> anyhow::Result<u8> {
    ui::json(&config::vm(&args.vm)?.info()?)?;
    Ok(exit::OK)
}
