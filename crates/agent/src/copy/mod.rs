//! Copies between host and guest, as tar archives.
//!
//! Each has a thread: files can only be read and written by waiting, and a
//! thread that waits is simpler than a walk over a tree that can be resumed.
//!
//! An archive coming in is answered with [`Stream::DataEnd`] once everything is
//! in place.

mod pack;
mod unpack;

use crate::connection::Connection;
use crate::log;
use hyperfork_api::frame::{self, CHUNK};
use hyperfork_api::guest::{Failure, Reply, Stream};
use rustix::fs::{OFlags, fcntl_setfl};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::thread;

/// Copies that may be under way at once.
const MAX_COPIES: usize = 16;

/// Enough for the deepest of what a copy calls: paths are walked with a list, not
/// by recursion.
const STACK: usize = 256 << 10;

/// What to copy.
#[derive(Debug)]
pub(crate) enum Copy {
    /// The archive that comes, to this path.
    In(String),
    /// This path, as an archive.
    Out(String),
}

/// The right to make a copy.
#[derive(Debug, Default)]
pub(crate) struct Ticket(Arc<()>);

impl Ticket {
    /// One more, if there are any left.
    pub(crate) fn another(&self) -> Option<Self> {
        // This one is not a copy's.
        let given = Arc::strong_count(&self.0) - 1;
        (given < MAX_COPIES).then(|| Self(Arc::clone(&self.0)))
    }
}

/// Continues a conversation whose request was this copy.
pub(crate) fn start(copy: Copy, connection: Connection, ticket: Ticket) {
    let builder = thread::Builder::new().stack_size(STACK);
    let result = builder.spawn(move || {
        match converse(copy, connection) {
            // The host went away; or, in a clone, it was the parent's.
            Ok(()) | Err(frame::FrameError::Io(_)) => {}
            Err(error) => log::error(format_args!("a copy was broken off: {error}")),
        }
        drop(ticket);
    });
    if let Err(error) = result {
        log::error(format_args!("no thread for a copy: {error}"));
    }
}

/// # Errors
/// Where the connection fails; the host gets other failures in a reply.
fn converse(copy: Copy, connection: Connection) -> Result<(), frame::FrameError> {
    let (socket, received) = connection.into_parts();
    fcntl_setfl(&socket, OFlags::RDWR).map_err(io::Error::from)?;
    let mut socket = File::from(socket);
    frame::write(&mut socket, &Reply::Streaming)?;
    let last = match copy {
        Copy::In(path) => {
            let frames = Cursor::new(received).chain(socket.try_clone()?);
            let mut data = Incoming::new(BufReader::with_capacity(CHUNK, frames));
            match unpack::unpack(Path::new(&path), &mut data) {
                Ok(()) => {
                    // The rest is padding.
                    io::copy(&mut data, &mut io::sink())?;
                    Stream::DataEnd
                }
                Err(failure) => {
                    frame::write(&mut socket, &Stream::Failed(failure))?;
                    // Closing with data unread could cost the host that message.
                    io::copy(&mut data, &mut io::sink())?;
                    return Ok(());
                }
            }
        }
        Copy::Out(path) => {
            let mut data = Outgoing::new(&mut socket);
            match pack::pack(&path, &mut data) {
                Ok(()) => {
                    data.flush()?;
                    Stream::DataEnd
                }
                Err(failure) => Stream::Failed(failure),
            }
        }
    };
    frame::write(&mut socket, &last)
}

fn failed(path: impl AsRef<Path>, reason: impl Display) -> Failure {
    Failure::File {
        path: path.as_ref().display().to_string(),
        reason: reason.to_string(),
    }
}

/// The bytes of [`Stream::Data`] frames, up to [`Stream::DataEnd`].
struct Incoming<R> {
    frames: R,
    chunk: Cursor<Vec<u8>>,
    ended: bool,
}

impl<R: Read> Incoming<R> {
    fn new(frames: R) -> Self {
        Self {
            frames,
            chunk: Cursor::default(),
            ended: false,
        }
    }
}

impl<R: Read> Read for Incoming<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let len = self.chunk.read(into)?;
            if len > 0 || self.ended || into.is_empty() {
                return Ok(len);
            }
            match frame::read(&mut self.frames).map_err(io::Error::other)? {
                Some(Stream::Data(bytes)) => self.chunk = Cursor::new(bytes),
                Some(Stream::DataEnd) => self.ended = true,
                Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}

/// Sends bytes as [`Stream::Data`] frames of [`CHUNK`] bytes.
struct Outgoing<W> {
    frames: W,
    chunk: Vec<u8>,
}

impl<W: Write> Outgoing<W> {
    fn new(frames: W) -> Self {
        Self {
            frames,
            chunk: Vec::with_capacity(CHUNK),
        }
    }
}

impl<W: Write> Write for Outgoing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.chunk.len() == CHUNK {
            self.flush()?;
        }
        let len = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let empty = Vec::with_capacity(CHUNK);
        let message = Stream::Data(std::mem::replace(&mut self.chunk, empty));
        frame::write(&mut self.frames, &message).map_err(io::Error::other)
    }
}
