//! Lines of a bounded length.

use std::io::{self, BufRead};

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A line, without its end.
    Whole(Vec<u8>),
    /// A line that was longer than allowed; it has been skipped.
    TooLong,
    /// The connection was closed; an unfinished line is discarded.
    End,
}

/// Reads a line of at most `most` bytes.
///
/// # Errors
/// The connection's.
pub(super) fn read(reader: &mut impl BufRead, most: usize) -> io::Result<Line> {
    let mut line = Vec::new();
    let mut is_too_long = false;
    loop {
        let chunk = match reader.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            chunk => chunk?,
        };
        if chunk.is_empty() {
            return Ok(Line::End);
        }
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let part = &chunk[..end.unwrap_or(chunk.len())];
        is_too_long |= line.len() + part.len() > most;
        match is_too_long {
            true => line = Vec::new(),
            false => line.extend_from_slice(part),
        }
        let read = part.len() + usize::from(end.is_some());
        reader.consume(read);
        if end.is_some() {
            return Ok(match is_too_long {
                true => Line::TooLong,
                false => Line::Whole(line),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    #[test]
    fn a_line_that_is_too_long_is_skipped_and_the_next_is_read() {
        let text = b"1234\n12345\n\nlast\nunfinished";
        for capacity in [1, 3, 64] {
            let mut reader = BufReader::with_capacity(capacity, &text[..]);
            let mut next = || read(&mut reader, 4).unwrap();
            assert_eq!(next(), Line::Whole(b"1234".to_vec()));
            assert_eq!(next(), Line::TooLong);
            assert_eq!(next(), Line::Whole(Vec::new()));
            assert_eq!(next(), Line::Whole(b"last".to_vec()));
            assert_eq!(next(), Line::End);
        }
    }
}
