//! A program in the guest that is connected to this program's streams.
//!
//! ```text
//!  our stdin ──▶ thread ──┐ Stdin, StdinEnd
//!  signals ────▶ thread ──┼─▶ connection ──▶ agent ──▶ program
//!                         │ Signal, Resize
//!  our stdout, stderr ◀── this thread ◀── Stdout, Stderr, Exited
//! ```

use super::output::Output;
use super::terminal::{RawMode, window_size};
use crate::exit;
use anyhow::{Context, bail};
use hyperfork_api::frame::{self, CHUNK, FrameError};
use hyperfork_api::guest::{Command, Request, Stream};
use hyperfork_host::agent::{Agent, AgentError};
use signal_hook::consts::{
    SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH,
};
use signal_hook::iterator::Signals;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Which of our streams the program gets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Streams {
    /// Our standard input.
    pub(crate) stdin: bool,
    /// Our terminal.
    pub(crate) tty: bool,
}

/// A running program.
#[derive(Debug)]
pub(crate) struct Session {
    connection: UnixStream,
    messages: Messages,
    streams: Streams,
    /// The signal because of which the session left the program.
    abandoned: Arc<AtomicI32>,
}

/// The messages to the program, sent by several threads.
#[derive(Debug, Clone)]
struct Messages(Arc<Mutex<UnixStream>>);

impl Messages {
    fn send(&self, message: &Stream) -> Result<(), FrameError> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        frame::write(&mut *stream, message)
    }

    /// Sends a message unless another is being sent, which may take for ever when the program does
    /// not read its input.
    fn try_send(&self, message: &Stream) {
        if let Ok(mut stream) = self.0.try_lock() {
            let _ = frame::write(&mut *stream, message);
        }
    }
}

impl Session {
    /// Starts the program.
    ///
    /// # Errors
    /// The agent's, or the system's.
    pub(crate) fn start(
        mut agent: Agent,
        command: Command,
        streams: Streams,
    ) -> anyhow::Result<Self> {
        // Catches signals from here on, so that none is lost while the program starts.
        let mut caught = vec![SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2];
        caught.extend(streams.tty.then_some(SIGWINCH));
        let signals = Signals::new(caught).context("cannot catch signals")?;
        agent.request(&Request::Exec(command))?;
        let connection = agent.into_stream();
        let session = Self {
            messages: Messages(Arc::new(Mutex::new(connection.try_clone()?))),
            connection,
            streams,
            abandoned: Arc::default(),
        };
        session.pass_signals_on(signals)?;
        Ok(session)
    }

    /// Forwards the streams until the program ends; returns its exit status.
    ///
    /// # Errors
    /// The guest is lost, or our output is closed.
    pub(crate) fn wait(mut self) -> anyhow::Result<u8> {
        // Dropping it restores the terminal on every way out.
        let _raw = (self.streams.tty && self.streams.stdin)
            .then(RawMode::enter)
            .transpose()
            .context("standard input is not a terminal: leave out -t")?;
        if self.streams.stdin {
            self.pass_input_on()?;
        }
        let mut output = Output::default();
        loop {
            let message = frame::read(&mut self.connection);
            let left_on = self.abandoned.load(Ordering::Relaxed);
            match message {
                Ok(Some(Stream::Exited(status))) => return Ok(exit::of_program(status)),
                _ if left_on != 0 => return Ok(exit::by_signal(left_on)),
                Ok(Some(Stream::Failed(failure))) => return Err(failure.into()),
                Ok(Some(message)) => {
                    if let Err(error) = output.write(&message) {
                        // As its own writes would have ended it.
                        self.messages.try_send(&Stream::Signal(SIGPIPE));
                        return Err(error);
                    }
                }
                Ok(None) => bail!(AgentError::Closed),
                Err(error) => return Err(error).context("the guest is lost"),
            }
        }
    }

    fn pass_input_on(&self) -> io::Result<()> {
        let messages = self.messages.clone();
        thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || {
                let mut chunk = vec![0; CHUNK];
                loop {
                    let message = match io::stdin().lock().read(&mut chunk) {
                        Ok(0) | Err(_) => Stream::StdinEnd,
                        Ok(len) => Stream::Stdin(chunk[..len].to_vec()),
                    };
                    let last = message == Stream::StdinEnd;
                    if messages.send(&message).is_err() || last {
                        return;
                    }
                }
            })?;
        Ok(())
    }

    /// Forwards signals. The second one that asks for an end ends the session: the program is
    /// killed, as far as it still receives messages, and left.
    fn pass_signals_on(&self, mut signals: Signals) -> anyhow::Result<()> {
        let messages = self.messages.clone();
        let (connection, abandoned) = (self.connection.try_clone()?, self.abandoned.clone());
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                let mut asked_to_end = false;
                for signal in signals.forever() {
                    if signal == SIGWINCH {
                        messages.try_send(&Stream::Resize(window_size()));
                    } else if asked_to_end && matches!(signal, SIGINT | SIGTERM | SIGHUP) {
                        abandoned.store(signal, Ordering::Relaxed);
                        messages.try_send(&Stream::Signal(SIGKILL));
                        let _ = connection.shutdown(Shutdown::Both);
                    } else {
                        asked_to_end |= matches!(signal, SIGINT | SIGTERM | SIGHUP);
                        messages.try_send(&Stream::Signal(signal));
                    }
                }
            })?;
        Ok(())
    }
}
