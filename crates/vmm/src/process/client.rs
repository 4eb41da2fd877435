//! Asking a VM's process.

use super::rundir::VmDir;
use hyperfork_api::control::{Reply, Request};
use hyperfork_api::{VmInfo, VmName, VmState};
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

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
        match UnixStream::connect(dir.control_socket()) {
            Ok(stream) => Ok(Self {
                name,
                stream: BufReader::new(stream),
            }),
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
        let connection = |name: &VmName, source| ClientError::Connection {
            name: name.clone(),
            source,
        };
        let mut line = serde_json::to_vec(request).expect("requests are plain data");
        line.push(b'\n');
        let mut answer = String::new();
        let asked = self.stream.get_mut().write_all(&line);
        match asked.and_then(|()| self.stream.read_line(&mut answer)) {
            Ok(0) => {
                return Err(ClientError::NotRunning {
                    name: self.name.clone(),
                });
            }
            Ok(_) => {}
            Err(error) if is_gone(&error) => {
                return Err(ClientError::NotRunning {
                    name: self.name.clone(),
                });
            }
            Err(source) => return Err(connection(&self.name, source)),
        }
        match serde_json::from_str(&answer) {
            Ok(Reply::Error(words)) => Err(ClientError::Refused(words)),
            Ok(reply) => Ok(reply),
            Err(error) => Err(connection(&self.name, error.into())),
        }
    }
}

impl VmDir {
    /// What there is to know about the VM: from its process, or where that has
    /// ended, from what it left.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn info(&self) -> Result<VmInfo, ClientError> {
        let asked = Client::connect(self).and_then(|mut client| client.request(&Request::Info));
        match asked {
            Ok(Reply::Info(info)) => Ok(*info),
            Err(ClientError::NotRunning { .. }) => self.left_info(),
            // Being started, or too busy to have bound its socket.
            Err(ClientError::Connection { .. }) => self.left_info(),
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

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}
