//! `inspect`.

use crate::args::Inspect;
use crate::{exit, ui};
use hyperfork_vmm::process::RunDir;

/// Prints all there is to know about a VM.
///
/// # Errors
/// There is no such VM.
pub(crate) fn run(args: &Inspect) -> anyhow::Result<u8> {
    ui::json(&RunDir::for_user()?.vm(&args.vm).info()?)?;
    Ok(exit::OK)
}
