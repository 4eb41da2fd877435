//! The client of a VM's control socket.

use crate::lines::{self, line_of};
use crate::run_dir::VmDir;
use hyperfork_api::control::{Answer, Ask, Info, Peer, Request, hello};
use hyperfork_api::{Code, Error, VmInfo, VmName, VmState};
use hyperfork_sys::process::{self, Process};
use hyperfork_sys::{connect, peer, scm};
use serde::de::DeserializeOwned;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A connection to a VM's control socket.
#[derive(Debug)]
pub struct Client {
    dir: VmDir,
    stream: BufReader<UnixStream>,
    /// Whether this client has sent its greeting, and has received the VM's.
    greeting_sent: bool,
    greeting_received: bool,
}

/// Why a request to a VM failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no such VM.
    #[error("there is no VM called {name}: `hyperfork ps -a` lists them")]
    Unknown {
        /// The name.
        name: VmName,
    },
    /// Its process has not written its description yet.
    #[error("{name} is only just being made: ask again in a moment")]
    Starting {
        /// Its name.
        name: VmName,
    },
    /// The VM has ended.
    #[error("{name} is not running")]
    NotRunning {
        /// Its name.
        name: VmName,
    },
    /// Its process refuses the request.
    #[error(transparent)]
    Refused(Error),
    /// Its process speaks another protocol, which it may not have named.
    #[error("{}", hello::other_vm(.name, .vm))]
    OtherVersion {
        /// The VM.
        name: VmName,
        /// What its first line says.
        vm: Peer,
    },
    /// The connection failed.
    #[error("cannot talk to the process of {name}")]
    Connection {
        /// The VM.
        name: VmName,
        /// The system's reason.
        source: io::Error,
    },
    /// Its process runs and does not answer.
    #[error("{name} does not answer: `hyperfork rm -f {name}` ends it all the same")]
    Silent {
        /// The VM.
        name: VmName,
    },
    /// Its process was stopped (SIGSTOP).
    #[error(
        "{name} does not answer, since its process stands still: `kill -CONT {pid}` lets it go on, \
         `hyperfork rm -f {name}` ends it"
    )]
    StandsStill {
        /// The VM.
        name: VmName,
        /// Its process.
        pid: u32,
    },
    /// Its process runs, and closes the connection without an answer.
    #[error(
        "{name} does not answer: its process closes the connection, as one without descriptors or \
         threads to spare does; `hyperfork rm -f {name}` ends it"
    )]
    Closed {
        /// The VM.
        name: VmName,
    },
    /// Its description on disk cannot be read.
    #[error(
        "what {name} left in its directory is damaged: remove it with `hyperfork rm -f {name}`"
    )]
    Damaged {
        /// The VM.
        name: VmName,
    },
}

impl ClientError {
    /// The error's code, for programs.
    pub fn code(&self) -> Code {
        match self {
            Self::Unknown { .. } => Code::NotFound,
            Self::Starting { .. } => Code::NotReady,
            Self::NotRunning { .. } => Code::NotRunning,
            Self::Refused(error) => error.code,
            Self::OtherVersion { .. } => Code::UnsupportedVersion,
            Self::Connection { .. } | Self::Closed { .. } => Code::Host,
            Self::Silent { .. } | Self::StandsStill { .. } => Code::Timeout,
            Self::Damaged { .. } => Code::Internal,
        }
    }
}

impl Client {
    /// Connects to a VM's process.
    ///
    /// # Errors
    /// [`ClientError::Unknown`], [`ClientError::NotRunning`], or the socket's.
    pub fn connect(dir: &VmDir) -> Result<Self, ClientError> {
        let name = dir.name().clone();
        match connect::within(&dir.control_socket(), CONNECT_TIMEOUT) {
            Ok(stream) => Ok(Self {
                dir: dir.clone(),
                stream: BufReader::new(stream),
                greeting_sent: false,
                greeting_received: false,
            }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(ClientError::Silent { name })
            }
            Err(_) if !dir.exists() => Err(ClientError::Unknown { name }),
            Err(_) if !dir.is_alive() => Err(ClientError::NotRunning { name }),
            Err(source) => Err(ClientError::Connection { name, source }),
        }
    }

    /// The process that serves the socket.
    ///
    /// # Errors
    /// The system's; it may have ended.
    pub fn process(&self) -> io::Result<Process> {
        Process::open(scm::peer(self.stream.get_ref())?)
    }

    /// Sends a request and waits for the answer: without a limit, once the process has received
    /// the request.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the VM's error, [`ClientError::NotRunning`] when it ended
    /// instead of answering, [`ClientError::StandsStill`], [`ClientError::Silent`] or
    /// [`ClientError::Closed`] when it does not take the request, [`ClientError::OtherVersion`],
    /// or the socket's.
    pub fn ask<A: Ask>(&mut self, request: A) -> Result<A::Reply, ClientError> {
        self.send(request)?;
        self.answer::<A>(None)
    }

    /// Sends a request and waits for the answer, at most this long.
    ///
    /// # Errors
    /// As [`ask`](Self::ask); [`ClientError::Silent`] also when the time is over.
    pub fn ask_within<A: Ask>(
        &mut self,
        request: A,
        within: Duration,
    ) -> Result<A::Reply, ClientError> {
        let deadline = Instant::now() + within;
        self.send(request)?;
        self.answer::<A>(Some(deadline))
    }

    /// Sends a request. The [answer](Self::answer) is awaited later.
    fn send<A: Ask>(&mut self, request: A) -> Result<(), ClientError> {
        let mut lines = match self.greeting_sent {
            true => Vec::new(),
            false => lines::greeting(),
        };
        self.greeting_sent = true;
        let request: Request = request.into();
        lines.extend(line_of(&request));
        // A request is small, but the process may be stopped and its socket's buffer full.
        let stream = self.stream.get_mut();
        let sent = stream
            .set_write_timeout(Some(CONNECT_TIMEOUT))
            .and_then(|()| stream.write_all(&lines));
        match sent {
            // The VM may have sent an error before it closed the connection.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            sent => sent.map_err(|error| self.failed(error, None)),
        }
    }

    /// Waits for the answer to the last request, until `deadline`, if there is one.
    fn answer<A: Ask>(&mut self, deadline: Option<Instant>) -> Result<A::Reply, ClientError> {
        if !self.greeting_received {
            let line = self.line(deadline)?;
            match lines::peer_in(line.as_bytes()) {
                vm if vm.is_understood() => self.greeting_received = true,
                vm => {
                    let name = self.name();
                    return Err(ClientError::OtherVersion { name, vm });
                }
            }
        }
        let line = self.line(deadline)?;
        let answer: Answer<A::Reply> = self.read(&line)?;
        Result::from(answer).map_err(|error: Error| match error.code {
            // The same error as for a VM that has ended without an answer.
            Code::NotRunning => ClientError::NotRunning { name: self.name() },
            _ => ClientError::Refused(error),
        })
    }

    fn line(&mut self, deadline: Option<Instant>) -> Result<String, ClientError> {
        let begun = Instant::now();
        let mut has_request = false;
        let mut line = String::new();
        loop {
            let now = Instant::now();
            let check = (!has_request).then(|| now + CHECK_INTERVAL);
            let until = [deadline, check].into_iter().flatten().min();
            // Reads what has arrived in any case. (A timeout of zero would mean none.)
            let left = until.map(|at| at.saturating_duration_since(now));
            let left = left.map(|left| left.max(Duration::from_millis(1)));
            let limited = self.stream.get_mut().set_read_timeout(left);
            match limited.and_then(|()| self.stream.read_line(&mut line)) {
                Ok(_) if line.ends_with('\n') => return Ok(line),
                Ok(_) => return Err(self.closed(deadline)),
                Err(error)
                    if is_timeout(&error) && deadline.is_none_or(|at| at > Instant::now()) =>
                {
                    has_request = self.has_request(begun)?;
                }
                Err(error) => return Err(self.failed(error, deadline)),
            }
        }
    }

    /// Whether the process has received the request, which was sent before `begun`.
    ///
    /// # Errors
    /// Of a process that stands still, at once; of one that may be busy, after its
    /// [`REQUEST_TIMEOUT`].
    fn has_request(&self, begun: Instant) -> Result<bool, ClientError> {
        let unread = peer::unread(self.stream.get_ref());
        match unread.map_err(|error| self.failed(error, None))? {
            0 => Ok(true),
            _ => match self.silent() {
                ClientError::Silent { .. } if begun.elapsed() < REQUEST_TIMEOUT => Ok(false),
                error => Err(error),
            },
        }
    }

    fn read<T: DeserializeOwned>(&self, line: &str) -> Result<T, ClientError> {
        serde_json::from_str(line).map_err(|error| self.failed(error.into(), None))
    }

    fn name(&self) -> VmName {
        self.dir.name().clone()
    }

    fn failed(&self, error: io::Error, deadline: Option<Instant>) -> ClientError {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => self.closed(deadline),
            _ if is_timeout(&error) => self.silent(),
            _ => ClientError::Connection {
                name: self.name(),
                source: error,
            },
        }
    }

    /// The error of a process that does not answer in time.
    fn silent(&self) -> ClientError {
        let name = self.name();
        match scm::peer(self.stream.get_ref()) {
            Ok(pid) if process::stands_still(pid) => ClientError::StandsStill { name, pid },
            _ => ClientError::Silent { name },
        }
    }

    /// The error of a process that has closed the connection: most often it is about to end.
    fn closed(&self, deadline: Option<Instant>) -> ClientError {
        let name = self.name();
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let most = left.map_or(END_TIMEOUT, |left| left.min(END_TIMEOUT));
        match self.dir.ends_within(most) {
            true => ClientError::NotRunning { name },
            false => ClientError::Closed { name },
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// How often to check whether a process has received a request.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a process that runs may take to receive a request; the host may be busy.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a process that has closed its socket may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a process may take to accept a connection or a request.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the processes of VMs may take to answer [`Info`].
const INFO_TIMEOUT: Duration = Duration::from_millis(700);

/// The descriptions of VMs, within a second: all VMs are asked at the same time.
pub fn infos(dirs: &[VmDir]) -> Vec<Result<VmInfo, ClientError>> {
    let deadline = Instant::now() + INFO_TIMEOUT;
    let asked: Vec<_> = dirs.iter().map(|dir| ask_for_info(dir, deadline)).collect();
    let asked = dirs.iter().zip(asked);
    asked
        .map(|(dir, client)| dir.info_from(client, deadline))
        .collect()
}

fn ask_for_info(dir: &VmDir, deadline: Instant) -> Result<Client, ClientError> {
    // Processes that do not accept use up the time for the others.
    if Instant::now() >= deadline {
        return Err(ClientError::Silent {
            name: dir.name().clone(),
        });
    }
    let mut client = Client::connect(dir)?;
    client.send(Info {})?;
    Ok(client)
}

impl VmDir {
    /// The VM's description: from its process, or from its directory if the process has ended
    /// or does not answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn info(&self) -> Result<VmInfo, ClientError> {
        let deadline = Instant::now() + INFO_TIMEOUT;
        self.info_from(ask_for_info(self, deadline), deadline)
    }

    fn info_from(
        &self,
        asked: Result<Client, ClientError>,
        deadline: Instant,
    ) -> Result<VmInfo, ClientError> {
        let answer = asked.and_then(|mut client| client.answer::<Info>(Some(deadline)));
        match answer {
            // Ended, being started, or stopped.
            Err(
                ClientError::NotRunning { .. }
                | ClientError::Connection { .. }
                | ClientError::Silent { .. }
                | ClientError::StandsStill { .. }
                | ClientError::Closed { .. },
            ) => self.recorded_info(),
            // Its description on disk can be read all the same.
            Err(error @ ClientError::OtherVersion { .. }) => {
                let mut info = self.recorded_info()?;
                info.status.error.get_or_insert_with(|| error.to_string());
                Ok(info)
            }
            answer => answer,
        }
    }

    /// The VM's last description on disk.
    pub(crate) fn recorded_info(&self) -> Result<VmInfo, ClientError> {
        let damaged = || ClientError::Damaged {
            name: self.name().clone(),
        };
        let text = self.read_info().map_err(|error| match error.kind() {
            // The directory was removed meanwhile, or no VM ever ran in it.
            io::ErrorKind::NotFound if !self.is_vm() => ClientError::Unknown {
                name: self.name().clone(),
            },
            io::ErrorKind::NotFound => ClientError::Starting {
                name: self.name().clone(),
            },
            _ => damaged(),
        })?;
        let mut info: VmInfo = serde_json::from_slice(&text).map_err(|_| damaged())?;
        if info.status.state.is_alive() && !self.is_alive() {
            info.status.state = VmState::Failed;
            info.status.pid = None;
            info.status.error = Some("its process was killed".to_owned());
        }
        info.status.answers = !info.status.state.is_alive();
        Ok(info)
    }
}

#[cfg(test)]
mod tests;
