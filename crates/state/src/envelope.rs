//! The header before a manifest's bytes: magic, version, length and checksum.
//!
//! | bytes | what, little-endian |
//! |---|---|
//! | 0..8 | `HYPRFORK` |
//! | 8..12 | version of the format |
//! | 12..20 | bytes of the body |
//! | 20..24 | CRC-32 of the body (IEEE 802.3) |
//! | 24.. | the body |

use std::ops::Range;

const MAGIC: [u8; 8] = *b"HYPRFORK";
const VERSION: Range<usize> = 8..12;
const LEN: Range<usize> = 12..20;
const CHECKSUM: Range<usize> = 20..24;

/// Bytes before the body.
pub(crate) const HEADER: usize = 24;

/// The format that is written, and read.
pub(crate) const FORMAT: u32 = 1;

/// Why bytes are not a captured machine, or cannot be read by this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// They have another magic.
    #[error("this is no captured machine")]
    Magic,
    /// They are from another version of HyperFork.
    #[error("this captured machine is in format {found}, and this program reads format {FORMAT}")]
    Format {
        /// Theirs.
        found: u32,
    },
    /// Some are missing.
    #[error("this captured machine is cut off: of {said} bytes there are {found}")]
    CutOff {
        /// Bytes that the body should have.
        said: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// There are more than belong to it.
    #[error("{0} bytes are left over behind a captured machine")]
    LeftOver(u64),
    /// Some have changed.
    #[error("this captured machine is damaged: its checksum is {found:08x}, not {said:08x}")]
    Checksum {
        /// Of the body when it was written.
        said: u32,
        /// Of the body as it is.
        found: u32,
    },
}

/// Puts the header before a body. The body's contents are not checked.
pub fn seal(body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes.extend_from_slice(body);
    fill_header(&mut bytes);
    bytes
}

/// Fills in the header before a body that is complete.
pub(crate) fn fill_header(bytes: &mut [u8]) {
    let (header, body) = bytes.split_at_mut(HEADER);
    header[..MAGIC.len()].copy_from_slice(&MAGIC);
    header[VERSION].copy_from_slice(&FORMAT.to_le_bytes());
    header[LEN].copy_from_slice(&(body.len() as u64).to_le_bytes());
    header[CHECKSUM].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
}

/// The body, whole and as it was written.
pub(crate) fn open(bytes: &[u8]) -> Result<&[u8], EnvelopeError> {
    let Some((header, body)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(EnvelopeError::Magic);
    };
    if header[..MAGIC.len()] != MAGIC {
        return Err(EnvelopeError::Magic);
    }
    let found = number(&header[VERSION]) as u32;
    if found != FORMAT {
        return Err(EnvelopeError::Format { found });
    }
    let (said, found) = (number(&header[LEN]), body.len() as u64);
    if found < said {
        return Err(EnvelopeError::CutOff { said, found });
    }
    if found > said {
        return Err(EnvelopeError::LeftOver(found - said));
    }
    let (said, found) = (number(&header[CHECKSUM]) as u32, crc32fast::hash(body));
    match said == found {
        true => Ok(body),
        false => Err(EnvelopeError::Checksum { said, found }),
    }
}

/// A little-endian number of at most 8 bytes.
fn number(bytes: &[u8]) -> u64 {
    let digits = bytes.iter().rev();
    digits.fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of sealed bytes that were changed.
    fn refusal(change: impl FnOnce(&mut Vec<u8>)) -> EnvelopeError {
        let mut bytes = seal(b"all of a machine");
        change(&mut bytes);
        open(&bytes).unwrap_err()
    }

    #[test]
    fn a_body_comes_out_as_it_went_in() {
        for body in [&b"all of a machine"[..], &[]] {
            assert_eq!(open(&seal(body)), Ok(body));
        }
    }

    #[test]
    fn each_part_of_the_header_has_an_error_of_its_own() {
        assert_eq!(refusal(|bytes| bytes[0] = b'h'), EnvelopeError::Magic);
        assert_eq!(refusal(|bytes| bytes.truncate(23)), EnvelopeError::Magic);
        let other = EnvelopeError::Format { found: 2 };
        assert_eq!(refusal(|bytes| bytes[8] = 2), other);
        let cut_off = EnvelopeError::CutOff {
            said: 16,
            found: 15,
        };
        assert_eq!(refusal(|bytes| bytes.truncate(HEADER + 15)), cut_off);
        assert_eq!(refusal(|bytes| bytes.push(0)), EnvelopeError::LeftOver(1));
        let damaged = refusal(|bytes| bytes[30] ^= 4);
        assert!(
            matches!(damaged, EnvelopeError::Checksum { .. }),
            "{damaged}"
        );
        let damaged = refusal(|bytes| bytes[20] ^= 4);
        assert!(
            matches!(damaged, EnvelopeError::Checksum { .. }),
            "{damaged}"
        );
    }
}
