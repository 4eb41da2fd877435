//! The client of a VM's control socket.

use crate::lines::{self, line_of};
use crate::run_dir::VmDir;
use hyperfork_api::control::{Answer, Ask, Hello, Info, Request, hello};
use hyperfork_api::{Code, Error, VmInfo, VmName, VmState};
use hyperfork_sys::process::Process;
use hyperfork_sys::{connect, scm};
use serde::de::DeserializeOwned;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A connection to a VM's control socket.
#[derive(Debug)]
pub struct Client {
    name: VmName,
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
    #[error("{}", hello::other_vm(.name, .vm.as_ref()))]
    OtherVersion {
        /// The VM.
        name: VmName,
        /// Its greeting.
        vm: Option<Hello>,
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
            Self::Connection { .. } => Code::Host,
            Self::Silent { .. } => Code::Timeout,
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
                name,
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

    /// Sends a request and waits for the answer, without a limit.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the VM's error, [`ClientError::NotRunning`] when it ended
    /// instead of answering, [`ClientError::OtherVersion`], or the socket's.
    pub fn ask<A: Ask>(&mut self, request: A) -> Result<A::Reply, ClientError> {
        self.send(request)?;
        self.answer::<A>(None)
    }

    /// Sends a request and waits for the answer, at most this long.
    ///
    /// # Errors
    /// As [`ask`](Self::ask); [`ClientError::Silent`].
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
            sent => sent.map_err(|error| self.failed(error)),
        }
    }

    /// Waits for the answer to the last request, until `deadline`, if there is one.
    fn answer<A: Ask>(&mut self, deadline: Option<Instant>) -> Result<A::Reply, ClientError> {
        if !self.greeting_received {
            let line = self.line(deadline)?;
            match lines::hello_in(line.as_bytes()) {
                Some(hello) if hello.is_understood() => self.greeting_received = true,
                vm => {
                    let name = self.name.clone();
                    return Err(ClientError::OtherVersion { name, vm });
                }
            }
        }
        let line = self.line(deadline)?;
        let answer: Answer<A::Reply> = self.read(&line)?;
        Result::from(answer).map_err(|error: Error| match error.code {
            // The same error as for a VM that has ended without an answer.
            Code::NotRunning => ClientError::NotRunning {
                name: self.name.clone(),
            },
            _ => ClientError::Refused(error),
        })
    }

    fn line(&mut self, deadline: Option<Instant>) -> Result<String, ClientError> {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        // Reads what has arrived in any case. (A timeout of zero would mean none.)
        let left = left.map(|left| left.max(Duration::from_millis(1)));
        let mut line = String::new();
        let limited = self.stream.get_mut().set_read_timeout(left);
        match limited.and_then(|()| self.stream.read_line(&mut line)) {
            Ok(_) if line.ends_with('\n') => Ok(line),
            Ok(_) => Err(ClientError::NotRunning {
                name: self.name.clone(),
            }),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn read<T: DeserializeOwned>(&self, line: &str) -> Result<T, ClientError> {
        serde_json::from_str(line).map_err(|error| self.failed(error.into()))
    }

    fn failed(&self, error: io::Error) -> ClientError {
        let name = self.name.clone();
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                ClientError::NotRunning { name }
            }
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Silent { name },
            _ => ClientError::Connection {
                name,
                source: error,
            },
        }
    }
}

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
                | ClientError::Silent { .. },
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
mod tests {
    use super::*;
    use crate::run_dir::{Claim, RunDir};
    use hyperfork_api::control::{Pause, Stop};
    use std::os::unix::net::UnixListener;
    use std::thread;

    /// A VM that answers its first request with this line.
    fn answering(run_dir: &RunDir, line: Vec<u8>) -> Claim {
        let claim = run_dir.claim(&VmName::new("p").unwrap()).unwrap();
        let listener = UnixListener::bind(claim.dir.control_socket()).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut received = String::new();
            reader.read_line(&mut received).unwrap();
            assert_eq!(received.as_bytes(), lines::greeting());
            reader.read_line(&mut received).unwrap();
            stream.write_all(&[lines::greeting(), line].concat())
        });
        claim
    }

    fn refused(error: Error) -> Vec<u8> {
        line_of(&Answer::<()>::Error(error))
    }

    #[test]
    fn a_refusal_has_the_vms_words_and_code() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = RunDir::open(folder.path().join("run")).unwrap();
        let error = Error::new(Code::WrongState, "p is paused already");
        let claim = answering(&run_dir, refused(error));
        let error = Client::connect(&claim.dir).unwrap().ask(Pause {});
        let error = error.unwrap_err();
        assert_eq!(error.to_string(), "p is paused already");
        assert_eq!(error.code(), Code::WrongState);
    }

    #[test]
    fn a_vm_that_ends_before_it_answers_is_not_running() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = RunDir::open(folder.path().join("run")).unwrap();
        let error = Error::new(Code::NotRunning, "the VM ended before it could answer");
        let claim = answering(&run_dir, refused(error));
        let stopped = Client::connect(&claim.dir)
            .unwrap()
            .ask(Stop { grace_ms: 0 });
        assert!(matches!(stopped, Err(ClientError::NotRunning { .. })));
    }

    #[test]
    fn an_answer_to_another_request_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = RunDir::open(folder.path().join("run")).unwrap();
        let claim = answering(&run_dir, line_of(&Answer::Ok(())));
        let asked = Client::connect(&claim.dir).unwrap().ask(Info {});
        assert!(matches!(asked, Err(ClientError::Connection { .. })));
    }
}
