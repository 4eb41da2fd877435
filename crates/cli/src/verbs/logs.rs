//! `logs`.

use crate::args::Logs;
use crate::config;
use crate::{exit, ui};
use anyhow::Context;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::thread;
use std::time::Duration;

/// How often to look for more output.
const POLL: Duration = Duration::from_millis(100);

/// Prints a VM's output.
///
/// # Errors
/// There is no such VM, or standard output is closed.
pub(crate) fn run(args: &Logs) -> anyhow::Result<u8> {
    let dir = config::vm(&args.vm)?;
    let info = dir.info()?;
    let path = match args.console || info.about.command.is_none() {
        true => dir.console_log(),
        false => dir.output_log(),
    };
    let there = || format!("cannot read {}", path.display());
    let mut file = File::open(&path).with_context(there)?;
    loop {
        // Checked before reading: output that comes in between would be lost otherwise.
        let last = !args.follow || !dir.is_alive();
        // A log is cut to its newest part now and then, and is then shorter than the part read
        // so far; new output is at its end.
        let read = file.stream_position()?;
        if file.metadata().with_context(there)?.len() < read {
            file.seek(SeekFrom::End(0))?;
        }
        copy(&mut file)?;
        if last {
            return Ok(exit::OK);
        }
        thread::sleep(POLL);
    }
}

fn copy(file: &mut File) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let mut chunk = vec![0; 64 << 10];
    loop {
        let len = file.read(&mut chunk)?;
        if len == 0 {
            return Ok(());
        }
        match stdout
            .write_all(&chunk[..len])
            .and_then(|()| stdout.flush())
        {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Err(ui::StdoutClosed.into());
            }
            written => written?,
        }
    }
}
