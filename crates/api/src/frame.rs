//! Frames: a 32-bit little-endian length, then that many bytes of postcard.
//!
//! The reader bounds every frame, so a peer can neither make it allocate without
//! limit nor make it panic.

use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, Read, Write};

/// Longest frame body, in bytes.
pub const MAX_BODY: usize = 1 << 20;

/// Most payload bytes a stream frame should carry, so that it stays far below
/// [`MAX_BODY`].
pub const CHUNK: usize = 64 << 10;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed, or ended inside a frame.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The peer announced a body longer than [`MAX_BODY`].
    #[error("a frame of {0} bytes is over the limit of {MAX_BODY}")]
    TooLong(usize),
    /// The body is not the expected message.
    #[error("a frame is not a message of this protocol")]
    Malformed(#[from] postcard::Error),
    /// The message is over before the bytes are.
    #[error("{0} bytes are left over after a message of this protocol")]
    LeftOver(usize),
}

/// The message that these bytes are, all of them.
///
/// # Errors
/// [`FrameError::Malformed`] and [`FrameError::LeftOver`].
pub fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FrameError> {
    // `postcard::from_bytes` ignores what is left over: the end of a newer message, or
    // that of something else altogether.
    match postcard::take_from_bytes(bytes)? {
        (message, []) => Ok(message),
        (_, rest) => Err(FrameError::LeftOver(rest.len())),
    }
}

/// One whole frame, header and body.
///
/// # Errors
/// [`FrameError::TooLong`] when the message does not fit.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = postcard::to_extend(message, vec![0; 4])?;
    let body = bytes.len() - 4;
    if body > MAX_BODY {
        return Err(FrameError::TooLong(body));
    }
    bytes[..4].copy_from_slice(&(body as u32).to_le_bytes());
    Ok(bytes)
}

/// Takes one frame off the front of `buffer`, if a whole one is there: for
/// readers that must not block.
///
/// # Errors
/// As [`read`], without `Io`.
pub fn decode<T: DeserializeOwned>(buffer: &mut Vec<u8>) -> Result<Option<T>, FrameError> {
    let Some(header) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let body = u32::from_le_bytes(*header) as usize;
    if body > MAX_BODY {
        return Err(FrameError::TooLong(body));
    }
    let Some(bytes) = buffer.get(4..4 + body) else {
        return Ok(None);
    };
    let message = from_bytes(bytes)?;
    buffer.drain(..4 + body);
    Ok(Some(message))
}

/// Writes one frame.
///
/// # Errors
/// As [`encode`], or the stream's error.
pub fn write<T: Serialize>(stream: &mut impl Write, message: &T) -> Result<(), FrameError> {
    stream.write_all(&encode(message)?)?;
    Ok(())
}

/// Reads one frame, waiting for it; `None` where the stream ends between frames.
///
/// # Errors
/// The stream's error (also when it ends inside a frame), a body over the limit,
/// or one that is not a `T`.
pub fn read<T: DeserializeOwned>(stream: &mut impl Read) -> Result<Option<T>, FrameError> {
    let mut header = [0; 4];
    match stream.read(&mut header[..1])? {
        0 => return Ok(None),
        _ => stream.read_exact(&mut header[1..])?,
    }
    let body = u32::from_le_bytes(header) as usize;
    if body > MAX_BODY {
        return Err(FrameError::TooLong(body));
    }
    let mut bytes = vec![0; body];
    stream.read_exact(&mut bytes)?;
    from_bytes(&bytes).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_stream_that_ends_inside_a_frame_is_an_error_and_between_frames_is_not() {
        let bytes = encode(&"hello").unwrap();
        assert!(matches!(read::<String>(&mut &bytes[..0]), Ok(None)));
        for cut in 1..bytes.len() {
            assert!(matches!(
                read::<String>(&mut &bytes[..cut]),
                Err(FrameError::Io(_))
            ));
        }
        assert_eq!(
            read::<String>(&mut &bytes[..]).unwrap().as_deref(),
            Some("hello")
        );
    }

    #[test]
    fn an_announced_length_over_the_limit_allocates_nothing() {
        let header = (MAX_BODY as u32 + 1).to_le_bytes();
        assert!(matches!(
            read::<String>(&mut &header[..]),
            Err(FrameError::TooLong(_))
        ));
        assert!(matches!(
            decode::<String>(&mut header.to_vec()),
            Err(FrameError::TooLong(_))
        ));
    }

    #[test]
    fn bytes_left_over_after_a_message_are_an_error() {
        let mut bytes = encode(&7u8).unwrap();
        bytes.push(0);
        bytes[0] += 1;
        let error = read::<u8>(&mut &bytes[..]).unwrap_err();
        assert!(matches!(error, FrameError::LeftOver(1)), "{error}");
        assert!(matches!(
            decode::<u8>(&mut bytes),
            Err(FrameError::LeftOver(1))
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = read::<crate::guest::Request>(&mut &bytes[..]);
            let _ = decode::<crate::guest::Stream>(&mut bytes.clone());
        }
    }
}
