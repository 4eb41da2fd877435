//! The protocol of a VM's control socket (`<run dir>/<name>/control.sock`): JSON documents, one
//! a line.
//!
//! ```text
//!  client                                             VM's process
//!     {"hello":{"version":"0.2.0","protocol":2}} ─────>
//!     {"pause":{}}                               ─────>   (sent together: no round trip more)
//!                                               <─────   {"hello":{"version":"0.2.0","protocol":2}}
//!                                               <─────   {"ok":null}
//!     {"fork":{"count":2, …}}                    ─────>   (as many as one likes)
//!                                               <─────   {"error":{"code":"not_ready", …}}
//! ```
//!
//! The first line each way is a [`Hello`]. Peers with different protocols refuse to work with
//! each other, each with a message for people ([`hello`]). Every request is a type that names the
//! type of its answer ([`Ask`]), so neither end can take one answer for another.
//! After [`Subscribe`] the connection carries [events](crate::event) until one end closes it.

pub mod hello;
mod requests;

pub use hello::{Greeting, Hello, PROTOCOL, Peer, VERSION};
pub use requests::{
    Ask, ExportDisk, Fork, Info, Pause, Request, Resume, Sample, Sampled, Stop, Subscribe,
    WaitExit, WaitReady,
};

use crate::Error;
use serde::{Deserialize, Serialize};

/// Longest line of a request, in bytes. A byte of a secret takes up to four.
pub const MAX_LINE: usize = 2 << 20;

/// An answer as it is on the wire; `R` is the request's [`Ask::Reply`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer<R> {
    /// The reply.
    Ok(R),
    /// Why the request failed.
    Error(Error),
}

impl<R> From<Result<R, Error>> for Answer<R> {
    fn from(result: Result<R, Error>) -> Self {
        match result {
            Ok(reply) => Self::Ok(reply),
            Err(error) => Self::Error(error),
        }
    }
}

impl<R> From<Answer<R>> for Result<R, Error> {
    fn from(answer: Answer<R>) -> Self {
        match answer {
            Answer::Ok(reply) => Ok(reply),
            Answer::Error(error) => Err(error),
        }
    }
}
