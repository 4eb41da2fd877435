//! The protocol between the host and the agent inside the guest.
//!
//! The agent listens on vsock port [`AGENT_PORT`], any CID. Every connection
//! carries one conversation: the host sends one [`Request`], the agent answers
//! with one [`Reply`], and where the reply is [`Reply::Streaming`], [`Stream`]
//! messages follow both ways until the connection closes. All of it in
//! [frames](crate::frame).
//!
//! Until the agent has taken the identity with the CID by which the host addresses it, it
//! refuses everything but [`Request::Identify`], [`Request::Ping`] and [`Request::PowerOff`].
//!
//! A program outlives its connection, however that ends: its input ends, its
//! output is read and thrown away. (A fork ends every connection of the clone,
//! and the programs in it must not notice.) To end a program, the host sends it a
//! signal first. To end its input alone, [`Stream::StdinEnd`].

use crate::{Identity, Secrets};
use serde::{Deserialize, Serialize};

/// The vsock port on which the agent listens.
pub const AGENT_PORT: u32 = 1024;

/// Where the guest's programs find the VM's identity, in files whose change they see without a
/// system call. See docs/identity.md.
pub const RUN_DIR: &str = "/run/hyperfork";

/// A JSON file that a clone's agent overwrites in place. See [`GuestIdentity`].
pub const IDENTITY_PATH: &str = "/run/hyperfork/identity.json";

/// Where secret files are, for the guest's root.
pub const SECRETS_DIR: &str = "/run/hyperfork/secrets";

/// Programs in this directory of the guest are run in a clone before its agent answers, in the
/// order of their names; if one fails, so does the clone.
pub const HOOKS_DIR: &str = "/etc/hyperfork/clone.d";

/// The lock file (`flock`) of the program that has the machine forked.
pub const FORK_LOCK_PATH: &str = "/run/hyperfork/fork.lock";

/// The content of [`IDENTITY_PATH`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestIdentity {
    /// As [`Identity::generation`]: the first thing in the file.
    pub generation: u32,
    /// The VM's name.
    pub name: String,
    /// As [`Identity::index`].
    pub index: u32,
    /// As [`Identity::cid`].
    pub cid: u32,
    /// The generation again, as the last thing in the file, which is written from its end
    /// to its beginning. A program that reads two different generations has read parts of two
    /// identities, and must read again.
    pub generation_again: u32,
}

/// A request of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Take this identity, with its randomness, hostname and time, drop what belonged to the
    /// VM that this one was cloned from, and confirm.
    Identify {
        /// The VM's identity.
        identity: Identity,
        /// The host's `CLOCK_REALTIME`, nanoseconds since 1970.
        realtime_ns: u64,
        /// 9p shares to mount, as (tag, mount point, read-only); only after boot.
        shares: Vec<(String, String, bool)>,
        /// The VM's secrets, which replace all that it had.
        secrets: Secrets,
    },
    /// Run a program; its streams are this connection.
    Exec(Command),
    /// Run the VM's main program, once in the VM's life. The last mebibyte of its
    /// output is kept by the agent and read with [`Request::FollowMain`]; it has
    /// no standard input.
    StartMain(Command),
    /// Stream the main program's output from this offset on (`None`: from now),
    /// then its exit status. What is not kept any more is [`Stream::Skipped`].
    FollowMain {
        /// Bytes of output (stdout and stderr together) already seen. A clone's output
        /// goes on counting where its parent's was.
        from: Option<u64>,
    },
    /// Send a signal to the main program.
    SignalMain(i32),
    /// Unpack the tar archive that follows as [`Stream::Data`] into `path`. The
    /// agent answers [`Stream::DataEnd`] with the same once all is in place.
    CopyIn {
        /// A directory that exists, or the path to give the archive's only entry.
        path: String,
    },
    /// Send `path` as a tar archive of [`Stream::Data`].
    CopyOut {
        /// A file or directory in the guest. Entries begin with its last
        /// component; with `.` where it ends in `/.`.
        path: String,
    },
    /// Are you there?
    Ping,
    /// Stop all programs, flush the disks and power off.
    PowerOff,
    /// Count the bytes that the main program has written by now, stdout and stderr together.
    /// A client that [follows](Self::FollowMain) it receives at least these.
    CountMain,
}

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Program (looked up in the guest's PATH) and arguments; never empty.
    pub argv: Vec<String>,
    /// Variables on top of the image's.
    pub env: Vec<(String, String)>,
    /// Working directory; the root directory where unset.
    pub cwd: Option<String>,
    /// Give it a terminal of this size. stdout and stderr are then one stream.
    pub tty: Option<WindowSize>,
    /// Whether its standard input is this connection; otherwise `/dev/null`.
    pub stdin: bool,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// The agent's answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Ok,
    /// The identity is in force.
    Identified {
        /// The agent's version, `CARGO_PKG_VERSION`.
        version: String,
    },
    /// [`Stream`] messages follow.
    Streaming,
    /// It could not be done.
    Failed(Failure),
    /// So many bytes.
    Counted(u64),
}

/// Why the agent could not do something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// No such program, as exit status 127.
    #[error("'{0}' is not a program in the guest")]
    NotFound(String),
    /// It is there but cannot be run, as exit status 126.
    #[error("'{program}' cannot be run in the guest: {reason}")]
    NotExecutable {
        /// The program.
        program: String,
        /// The guest kernel's error message.
        reason: String,
    },
    /// A file operation failed.
    #[error("{path}: {reason}")]
    File {
        /// Path in the guest.
        path: String,
        /// The guest kernel's error message.
        reason: String,
    },
    /// The request makes no sense now.
    #[error("{0}")]
    Refused(String),
}

/// What flows after [`Reply::Streaming`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    /// To the guest: the program's standard input.
    Stdin(#[serde(with = "serde_bytes")] Vec<u8>),
    /// To the guest: end of standard input.
    StdinEnd,
    /// To the guest: the terminal's size has changed.
    Resize(WindowSize),
    /// To the guest: send this signal to the program's process group.
    Signal(i32),
    /// From the guest: standard output (or the terminal).
    Stdout(#[serde(with = "serde_bytes")] Vec<u8>),
    /// From the guest: standard error.
    Stderr(#[serde(with = "serde_bytes")] Vec<u8>),
    /// From the guest, last: how the program ended. The shell's convention: its
    /// exit code, or 128 and the signal that killed it.
    Exited(i32),
    /// Either way: a part of a tar archive.
    Data(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Either way: the archive is complete.
    DataEnd,
    /// From the guest, last: it failed half-way.
    Failed(Failure),
    /// From the guest, to a client that follows the main program: this many bytes of output
    /// are no longer kept.
    Skipped(u64),
}
