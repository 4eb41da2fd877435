//! Asking a VM's process.

use crate::run_dir::VmDir;
use hyperfork_api::control::{Reply, Request};
use hyperfork_api::{VmInfo, VmName, VmState};
use hyperfork_sys::connect;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A connection to a VM's control socket.
#[derive(Debug)]
pub struct Client {
    name: VmName,
    stream: BufReader<UnixStream>,
}

/// Why a VM could not be asked, or did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no such VM.
    #[error("there is no VM called {name}: `hyperfork ps -a` lists them")]
    Unknown {
        /// The name.
        name: VmName,
    },
    /// Its process has not said anything yet.
    #[error("{name} is only just being made: ask again in a moment")]
    Starting {
        /// Its name.
        name: VmName,
    },
    /// There was, but it has ended.
    #[error("{name} is not running")]
    NotRunning {
        /// Its name.
        name: VmName,
    },
    /// It said no; the words are its own.
    #[error("{0}")]
    Refused(String),
    /// The connection failed.
    #[error("cannot talk to the process of {name}")]
    Connection {
        /// The VM.
        name: VmName,
        /// The system's reason.
        source: io::Error,
    },
    /// Its process is there and says nothing.
    #[error("{name} does not answer: `hyperfork rm -f {name}` ends it all the same")]
    Silent {
        /// The VM.
        name: VmName,
    },
    /// What it left makes no sense.
    #[error(
        "what {name} left in its directory is damaged: remove it with `hyperfork rm -f {name}`"
    )]
    Damaged {
        /// The VM.
        name: VmName,
    },
}

impl Client {
    /// Connects to a VM's process.
    ///
    /// # Errors
    /// [`ClientError::Unknown`], [`ClientError::NotRunning`], or the socket's.
    pub fn connect(dir: &VmDir) -> Result<Self, ClientError> {
        let name = dir.name().clone();
        match connect::within(&dir.control_socket(), CONNECT) {
            Ok(stream) => Ok(Self {
                name,
                stream: BufReader::new(stream),
            }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(ClientError::Silent { name })
            }
            Err(_) if !dir.exists() => Err(ClientError::Unknown { name }),
            Err(_) if !dir.is_alive() => Err(ClientError::NotRunning { name }),
            Err(source) => Err(ClientError::Connection { name, source }),
        }
    }

    /// Asks, and waits for the answer as long as that takes.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the VM's words, [`ClientError::NotRunning`]
    /// when it ended instead of answering, or the socket's.
    pub fn request(&mut self, request: &Request) -> Result<Reply, ClientError> {
        self.ask(request)?;
        self.answer(None)
    }

    /// Asks, and waits so long for the answer at most.
    ///
    /// # Errors
    /// As [`request`](Self::request); [`ClientError::Silent`].
    pub fn request_within(
        &mut self,
        request: &Request,
        within: Duration,
    ) -> Result<Reply, ClientError> {
        let deadline = Instant::now() + within;
        self.ask(request)?;
        self.answer(Some(deadline))
    }

    /// Asks. The [answer](Self::answer) may be waited for later.
    fn ask(&mut self, request: &Request) -> Result<(), ClientError> {
        let mut line = serde_json::to_vec(request).expect("requests are plain data");
        line.push(b'\n');
        // A request is small, but the process may stand still.
        let stream = self.stream.get_mut();
        stream
            .set_write_timeout(Some(CONNECT))
            .and_then(|()| stream.write_all(&line))
            .map_err(|error| self.failed(error))
    }

    /// The answer to what was asked, waited for until `deadline`, if there is one.
    fn answer(&mut self, deadline: Option<Instant>) -> Result<Reply, ClientError> {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        // What has come already is read in any case. (No time at all would mean for ever.)
        let left = left.map(|left| left.max(Duration::from_millis(1)));
        let mut answer = String::new();
        let limited = self.stream.get_mut().set_read_timeout(left);
        match limited.and_then(|()| self.stream.read_line(&mut answer)) {
            Ok(0) => Err(ClientError::NotRunning {
                name: self.name.clone(),
            }),
            Ok(_) => match serde_json::from_str(&answer) {
                Ok(Reply::Error(words)) => Err(ClientError::Refused(words)),
                Ok(reply) => Ok(reply),
                Err(error) => Err(self.failed(error.into())),
            },
            Err(error) => Err(self.failed(error)),
        }
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

/// How long a process may take to notice that it is asked something.
const CONNECT: Duration = Duration::from_secs(1);

/// How long the processes of VMs may take to tell about themselves.
const INFO: Duration = Duration::from_millis(700);

/// What there is to know about each of these VMs, all within a second: they are asked at the
/// same time.
pub fn infos(dirs: &[VmDir]) -> Vec<Result<VmInfo, ClientError>> {
    let deadline = Instant::now() + INFO;
    let asked: Vec<_> = dirs.iter().map(|dir| ask_for_info(dir, deadline)).collect();
    let asked = dirs.iter().zip(asked);
    asked
        .map(|(dir, client)| dir.info_from(client, deadline))
        .collect()
}

fn ask_for_info(dir: &VmDir, deadline: Instant) -> Result<Client, ClientError> {
    // Those that stand still take the time of connecting to others.
    if Instant::now() >= deadline {
        return Err(ClientError::Silent {
            name: dir.name().clone(),
        });
    }
    let mut client = Client::connect(dir)?;
    client.ask(&Request::Info)?;
    Ok(client)
}

impl VmDir {
    /// What there is to know about the VM: from its process, or where that has
    /// ended, from what it left.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn info(&self) -> Result<VmInfo, ClientError> {
        let deadline = Instant::now() + INFO;
        self.info_from(ask_for_info(self, deadline), deadline)
    }

    fn info_from(
        &self,
        asked: Result<Client, ClientError>,
        deadline: Instant,
    ) -> Result<VmInfo, ClientError> {
        let answer = asked.and_then(|mut client| client.answer(Some(deadline)));
        match answer {
            Ok(Reply::Info(info)) => Ok(*info),
            Err(ClientError::NotRunning { .. }) => self.left_info(),
            // Being started, or standing still.
            Err(ClientError::Connection { .. } | ClientError::Silent { .. }) => {
                let info = self.left_info()?;
                Ok(VmInfo {
                    answers: !info.state.is_alive(),
                    ..info
                })
            }
            Err(error) => Err(error),
            Ok(_) => Err(ClientError::Damaged {
                name: self.name().clone(),
            }),
        }
    }

    fn left_info(&self) -> Result<VmInfo, ClientError> {
        let damaged = || ClientError::Damaged {
            name: self.name().clone(),
        };
        let text = fs::read(self.info_path()).map_err(|error| match error.kind() {
            // What was removed meanwhile, or never came to life, is nobody.
            io::ErrorKind::NotFound if !self.is_taken() => ClientError::Unknown {
                name: self.name().clone(),
            },
            io::ErrorKind::NotFound => ClientError::Starting {
                name: self.name().clone(),
            },
            _ => damaged(),
        })?;
        let mut info: VmInfo = serde_json::from_slice(&text).map_err(|_| damaged())?;
        if info.state.is_alive() && !self.is_alive() {
            info.state = VmState::Failed;
            info.pid = None;
            info.error = Some("its process was killed".to_owned());
        }
        Ok(info)
    }
}
