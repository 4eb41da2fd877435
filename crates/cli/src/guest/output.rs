//! Copying a guest program's output to this program's.

use crate::ui::StdoutClosed;
use hyperfork_api::guest::Stream;
use std::io::{self, Write};

/// Writes what a program wrote, where it wrote it.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Bytes that the guest's program has written so far, both streams together, including those
    /// that the agent no longer had.
    pub(crate) passed: u64,
}

impl Output {
    /// Writes if it is output; true if it was.
    ///
    /// # Errors
    /// [`StdoutClosed`], or another error of this program's stream.
    pub(crate) fn write(&mut self, message: &Stream) -> anyhow::Result<bool> {
        let (bytes, result) = match message {
            Stream::Stdout(bytes) => (bytes, write_all(&mut io::stdout().lock(), bytes)),
            Stream::Stderr(bytes) => (bytes, write_all(&mut io::stderr().lock(), bytes)),
            Stream::Skipped(len) => {
                self.passed += len;
                return Ok(true);
            }
            _ => return Ok(false),
        };
        self.passed += bytes.len() as u64;
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
            written => Ok(written.map(|()| true)?),
        }
    }
}

fn write_all(stream: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)?;
    stream.flush()
}
