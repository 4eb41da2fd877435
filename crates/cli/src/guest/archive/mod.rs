//! Tar archives as they travel between host and guest: [`Stream::Data`] frames,
//! then [`Stream::DataEnd`].

mod checked;
mod pack;
mod target;
mod unpack;

pub(crate) use pack::pack;
pub(crate) use target::resolve;
pub(crate) use unpack::unpack;

use hyperfork_api::frame::{self, CHUNK};
use hyperfork_api::guest::{Failure, Stream};
use std::io::{self, Cursor, Read, Write};

/// Sends bytes as frames of [`CHUNK`] bytes.
#[derive(Debug)]
pub(crate) struct Outgoing<W> {
    frames: W,
    chunk: Vec<u8>,
}

impl<W: Write> Outgoing<W> {
    /// Sends over this connection.
    pub(crate) fn new(frames: W) -> Self {
        Self {
            frames,
            chunk: Vec::with_capacity(CHUNK),
        }
    }

    /// Says that the archive is complete.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        frame::write(&mut self.frames, &Stream::DataEnd).map_err(io::Error::other)
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

/// Receives bytes from frames. Where the guest fails half-way, reading fails with
/// the guest's [`Failure`] inside the error.
#[derive(Debug)]
pub(crate) struct Incoming<R> {
    frames: R,
    chunk: Cursor<Vec<u8>>,
    ended: bool,
}

impl<R: Read> Incoming<R> {
    /// Receives over this connection.
    pub(crate) fn new(frames: R) -> Self {
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
                Some(Stream::Failed(failure)) => return Err(failed(failure)),
                Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}

fn failed(failure: Failure) -> io::Error {
    io::Error::other(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_arrives_as_it_was_sent() {
        let sent: Vec<u8> = (0..3 * CHUNK + 5).map(|n| n as u8).collect();
        let mut wire = Vec::new();
        let mut outgoing = Outgoing::new(&mut wire);
        outgoing.write_all(&sent).unwrap();
        outgoing.finish().unwrap();
        let mut received = Vec::new();
        Incoming::new(wire.as_slice())
            .read_to_end(&mut received)
            .unwrap();
        assert!(received == sent);
    }

    #[test]
    fn an_archive_that_breaks_off_is_an_error() {
        let mut wire = Vec::new();
        let mut outgoing = Outgoing::new(&mut wire);
        outgoing.write_all(b"half").unwrap();
        outgoing.flush().unwrap();
        let mut received = Vec::new();
        assert!(
            Incoming::new(wire.as_slice())
                .read_to_end(&mut received)
                .is_err()
        );
        let failure = Failure::File {
            path: "/x".to_owned(),
            reason: "gone".to_owned(),
        };
        frame::write(&mut wire, &Stream::Failed(failure)).unwrap();
        let error = Incoming::new(wire.as_slice())
            .read_to_end(&mut received)
            .unwrap_err();
        assert_eq!(error.to_string(), "/x: gone");
    }
}
