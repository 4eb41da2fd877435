//! Talking to programs inside a guest.

mod archive;
mod environment;
mod output;
mod session;
mod terminal;

pub(crate) use archive::{Incoming, Outgoing, pack, resolve, unpack};
pub(crate) use environment::{environment_of, set};
pub(crate) use output::Output;
pub(crate) use session::{Session, Streams};
pub(crate) use terminal::window_size;
