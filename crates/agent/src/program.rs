//! A running program and the agent's ends of its streams.

use crate::environment::Environment;
use crate::sys::signals;
use crate::sys::spawn::{self, Plan, SpawnError};
use hyperfork_api::guest::{Command, Failure, WindowSize};
use rustix::fs::{Mode, OFlags, fcntl_setfl, open};
use rustix::io::{Errno, read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitStatus};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

/// Bytes of standard input waiting for the program above which no more should
/// be taken from the host. Large, because signals wait behind them.
const STDIN_HIGH_WATER: usize = 1 << 20;

/// Most bytes read from a program's streams after it has ended: a pipe's usual
/// capacity several times over. What keeps a stream open longer (something left
/// in the background) may write for ever.
const LAST_WORDS: usize = 1 << 20;

/// Ends a line of input at once, and the input on an empty line (termios(3),
/// VEOF).
const END_OF_TRANSMISSION: u8 = 4;

/// Which of a program's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A program that was started.
#[derive(Debug)]
pub(crate) struct Program {
    pid: Pid,
    status: Option<i32>,
    last_words: usize,
    stdin: Option<Stdin>,
    outputs: Vec<Output>,
    /// The terminal's other end; also in `stdin` and `outputs`.
    terminal: Option<Rc<OwnedFd>>,
}

#[derive(Debug)]
struct Stdin {
    pipe: Rc<OwnedFd>,
    waiting: Vec<u8>,
    ended: bool,
}

#[derive(Debug)]
struct Output {
    pipe: Rc<OwnedFd>,
    source: Source,
}

/// What reading an output gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// This many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// Nothing ever again; the output is gone.
    End,
}

/// The program's ends of its streams; closed once it runs.
struct TheirEnds([OwnedFd; 3]);

impl Program {
    /// Starts a program.
    ///
    /// # Errors
    /// [`Failure::NotFound`] and [`Failure::NotExecutable`] as a shell's 127 and
    /// 126; [`Failure::Refused`] for a command that is none.
    pub(crate) fn start(command: &Command, base: &Environment) -> Result<Self, Failure> {
        let Some(name) = command.argv.first() else {
            return Err(Failure::Refused("no program was named".to_owned()));
        };
        let cannot = |reason: String| Failure::NotExecutable {
            program: name.clone(),
            reason,
        };
        let no_zero = |error: std::ffi::NulError| cannot(error.to_string());
        let environment = base.with(&command.env, command.tty.is_some());
        let candidates = environment.candidates(name).map_err(no_zero)?;
        let env = environment.strings().map_err(no_zero)?;
        let argv = strings(&command.argv).map_err(no_zero)?;
        let cwd = command.cwd.as_deref().map(CString::new);
        let cwd = cwd.transpose().map_err(no_zero)?;

        let (mut program, ends) = match command.tty {
            Some(size) => Self::on_terminal(size, command.stdin),
            None => Self::on_pipes(command.stdin),
        }
        .map_err(|error| cannot(error.to_string()))?;
        let plan = Plan {
            candidates: &candidates,
            argv: &argv,
            env: &env,
            cwd: cwd.as_deref(),
            stdio: ends.0.each_ref().map(AsFd::as_fd),
            terminal: command.tty.is_some(),
        };
        program.pid = spawn::spawn(&plan).map_err(|error| match error {
            SpawnError::Execute(source) if source.kind() == io::ErrorKind::NotFound => {
                Failure::NotFound(name.clone())
            }
            SpawnError::Directory(source) => {
                let directory = command.cwd.as_deref().unwrap_or("/");
                cannot(format!("its working directory {directory}: {source}"))
            }
            SpawnError::Execute(source) => cannot(source.to_string()),
            SpawnError::Clone(ref source) | SpawnError::Streams(ref source) => {
                cannot(format!("{error}: {source}"))
            }
        })?;
        Ok(program)
    }

    fn on_pipes(with_stdin: bool) -> io::Result<(Self, TheirEnds)> {
        let (stdout, their_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, their_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        let (their_stdin, stdin) = if with_stdin {
            let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
            (theirs, Some(non_blocking(ours)?))
        } else {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            (open("/dev/null", flags, Mode::empty())?, None)
        };
        let outputs = vec![
            Output {
                pipe: non_blocking(stdout)?,
                source: Source::Stdout,
            },
            Output {
                pipe: non_blocking(stderr)?,
                source: Source::Stderr,
            },
        ];
        let ends = TheirEnds([their_stdin, their_stdout, their_stderr]);
        Ok((Self::unstarted(stdin, outputs, None), ends))
    }

    fn on_terminal(size: WindowSize, with_stdin: bool) -> io::Result<(Self, TheirEnds)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags)?;
        unlockpt(&ours)?;
        tcsetwinsize(&ours, winsize(size))?;
        let theirs = ioctl_tiocgptpeer(&ours, flags)?;
        let again = rustix::io::fcntl_dupfd_cloexec(&theirs, 3)?;
        let and_again = rustix::io::fcntl_dupfd_cloexec(&theirs, 3)?;
        let ours = non_blocking(ours)?;
        let outputs = vec![Output {
            pipe: Rc::clone(&ours),
            source: Source::Stdout,
        }];
        let stdin = with_stdin.then(|| Rc::clone(&ours));
        let ends = TheirEnds([theirs, again, and_again]);
        Ok((Self::unstarted(stdin, outputs, Some(ours)), ends))
    }

    fn unstarted(
        stdin: Option<Rc<OwnedFd>>,
        outputs: Vec<Output>,
        terminal: Option<Rc<OwnedFd>>,
    ) -> Self {
        Self {
            pid: Pid::INIT,
            status: None,
            last_words: LAST_WORDS,
            stdin: stdin.map(|pipe| Stdin {
                pipe,
                waiting: Vec::new(),
                ended: false,
            }),
            outputs,
            terminal,
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// How it ended, if it has: the shell's convention.
    pub(crate) fn status(&self) -> Option<i32> {
        self.status
    }

    /// Records its end.
    pub(crate) fn ended(&mut self, status: WaitStatus) {
        let signal = status.terminating_signal().map(|signal| 128 + signal);
        self.status = status.exit_status().or(signal).or(Some(255));
        self.stdin = None;
    }

    /// Sends a signal to its process group, while it runs.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        match self.status {
            // The number may be another process's by now.
            Some(_) => Ok(()),
            None => signals::send(-self.pid.as_raw_nonzero().get(), signal),
        }
    }

    /// Gives its terminal, if it has one, another size; the kernel signals that to it.
    pub(crate) fn resize(&self, size: WindowSize) -> io::Result<()> {
        match &self.terminal {
            Some(terminal) => Ok(tcsetwinsize(terminal, winsize(size))?),
            None => Ok(()),
        }
    }

    /// Takes input for it. Input for a program that reads none is dropped.
    pub(crate) fn input(&mut self, bytes: &[u8]) {
        if let Some(stdin) = self.stdin.as_mut().filter(|stdin| !stdin.ended) {
            stdin.waiting.extend_from_slice(bytes);
            self.pass_input_on();
        }
    }

    /// Records that no more input comes.
    pub(crate) fn end_input(&mut self) {
        if self.terminal.is_some() {
            self.input(&[END_OF_TRANSMISSION]);
        }
        if let Some(stdin) = &mut self.stdin {
            stdin.ended = true;
            self.pass_input_on();
        }
    }

    /// Ends its input, and drops what waits: the host's connection is gone.
    pub(crate) fn abandon_input(&mut self) {
        if let Some(stdin) = &mut self.stdin {
            stdin.waiting.clear();
        }
        self.end_input();
    }

    /// Whether so much input waits that no more should be taken.
    pub(crate) fn input_is_full(&self) -> bool {
        self.stdin
            .as_ref()
            .is_some_and(|stdin| stdin.waiting.len() >= STDIN_HIGH_WATER)
    }

    /// Where its input goes, if any waits.
    pub(crate) fn waiting_input(&self) -> Option<BorrowedFd<'_>> {
        let stdin = self.stdin.as_ref()?;
        (!stdin.waiting.is_empty()).then(|| stdin.pipe.as_fd())
    }

    /// Writes what its input takes without waiting.
    pub(crate) fn pass_input_on(&mut self) {
        let Some(stdin) = &mut self.stdin else { return };
        let mut passed = 0;
        let gone = loop {
            let waiting = &stdin.waiting[passed..];
            if waiting.is_empty() {
                break stdin.ended;
            }
            match write(&stdin.pipe, waiting) {
                Ok(len) => passed += len,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break false,
                // It reads no more.
                Err(_) => break true,
            }
        };
        if gone {
            self.stdin = None;
        } else {
            stdin.waiting.drain(..passed);
        }
    }

    /// Its outputs that are open, by index.
    pub(crate) fn outputs(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.outputs.iter().map(|output| output.pipe.as_fd())
    }

    /// Reads once from an output; [`Outcome::End`] shifts the later ones'
    /// indices.
    pub(crate) fn read(&mut self, index: usize, into: &mut [u8]) -> (Source, Outcome) {
        let Some(output) = self.outputs.get(index) else {
            return (Source::Stdout, Outcome::Nothing);
        };
        let source = output.source;
        match read(&output.pipe, into) {
            Ok(len) if len > 0 => (source, Outcome::Bytes(len)),
            Err(Errno::AGAIN | Errno::INTR) => (source, Outcome::Nothing),
            // Zero: no writer is left; EIO is how a terminal says that.
            _ => {
                self.outputs.remove(index);
                (source, Outcome::End)
            }
        }
    }

    /// Reads what was left in the outputs when the program ended, for as long as
    /// `take` says that there is room for more; true once all is read.
    pub(crate) fn read_last_words(
        &mut self,
        scratch: &mut [u8],
        mut take: impl FnMut(Source, &[u8]) -> bool,
    ) -> bool {
        let mut index = 0;
        while index < self.outputs.len() && self.last_words > 0 {
            let len = scratch.len().min(self.last_words);
            match self.read(index, &mut scratch[..len]) {
                (source, Outcome::Bytes(len)) => {
                    self.last_words -= len;
                    if !take(source, &scratch[..len]) {
                        return false;
                    }
                }
                (_, Outcome::Nothing) => index += 1,
                (_, Outcome::End) => {}
            }
        }
        true
    }
}

fn strings(arguments: &[String]) -> Result<Vec<CString>, std::ffi::NulError> {
    arguments
        .iter()
        .map(|argument| CString::new(argument.as_str()))
        .collect()
}

fn winsize(size: WindowSize) -> Winsize {
    Winsize {
        ws_row: size.rows,
        ws_col: size.cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// Only our end: the program expects its own to block.
fn non_blocking(fd: OwnedFd) -> io::Result<Rc<OwnedFd>> {
    fcntl_setfl(&fd, OFlags::RDWR | OFlags::NONBLOCK)?;
    Ok(Rc::new(fd))
}
