//! Talking to the demonstration's program in a guest: over its vsock port, as any
//! host program can, and by its output.

use super::Stage;
use anyhow::{Context, bail};
use hyperfork_api::frame;
use hyperfork_api::guest::{Request, Stream};
use hyperfork_host::VmDir;
use hyperfork_host::agent::Agent;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// The program's vsock port.
const PORT: u32 = 5000;

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program's answer: names and values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer(HashMap<String, String>);

impl Answer {
    /// Asks the program in a VM.
    ///
    /// # Errors
    /// It cannot be reached, or answers something else.
    pub(super) fn to(request: &str, dir: &VmDir) -> anyhow::Result<Self> {
        Self::over(request, dir).with_context(|| format!("{} does not answer", dir.name()))
    }

    fn over(request: &str, dir: &VmDir) -> anyhow::Result<Self> {
        let mut connection = UnixStream::connect(dir.vsock_socket())?;
        connection.set_read_timeout(Some(PATIENCE))?;
        writeln!(connection, "CONNECT {PORT}")?;
        let mut lines = BufReader::new(connection.try_clone()?).lines();
        let accepted = lines.next().context("the port is closed")??;
        if !accepted.starts_with("OK ") {
            bail!("{accepted}");
        }
        writeln!(connection, "{request}")?;
        let mut values = HashMap::new();
        for line in lines {
            let line = line?;
            let (name, value) = line.split_once(' ').unwrap_or((&line, ""));
            values.insert(name.to_owned(), value.to_owned());
        }
        Ok(Self(values))
    }

    /// A value.
    ///
    /// # Errors
    /// It was not told.
    pub(super) fn text(&self, name: &str) -> anyhow::Result<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .with_context(|| format!("no {name} in the answer"))
    }

    /// A value that is a number.
    ///
    /// # Errors
    /// It was not told, or is none.
    pub(super) fn number(&self, name: &str) -> anyhow::Result<u64> {
        let text = self.text(name)?;
        text.parse().with_context(|| format!("{name} is {text}"))
    }
}

/// Calls `on_line` with each line that the main program prints, until `on_line` returns false.
///
/// # Errors
/// The program ends, or a signal interrupts.
pub(super) fn follow(
    stage: &Stage,
    dir: &VmDir,
    mut on_line: impl FnMut(&str) -> bool,
) -> anyhow::Result<()> {
    let lines = lines(dir)?;
    let mut last = String::new();
    loop {
        stage.interrupt.check()?;
        match lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) if !on_line(&line) => return Ok(()),
            Ok(line) => last = line,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => bail!("the program in the guest ended: {last}"),
        }
    }
}

fn lines(dir: &VmDir) -> anyhow::Result<Receiver<String>> {
    let mut agent = Agent::connect(dir)?;
    agent.request(&Request::FollowMain { from: Some(0) })?;
    let mut connection = agent.into_stream();
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut text = String::new();
        while let Ok(Some(Stream::Stdout(bytes) | Stream::Stderr(bytes))) =
            frame::read(&mut connection)
        {
            text.push_str(&String::from_utf8_lossy(&bytes));
            while let Some((line, rest)) = text.split_once('\n') {
                if sender.send(line.to_owned()).is_err() {
                    return;
                }
                text = rest.to_owned();
            }
        }
        // A last line without an end, as of a crash.
        let _ = sender.send(text);
    });
    Ok(receiver)
}
