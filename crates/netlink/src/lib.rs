//! Netlink (netlink(7)): messages as bytes, and the socket to the kernel. The monitor sets a VM's
//! links up with it on the host, the agent in the guest.
//!
//! No message asks for an acknowledgement. The subsystems that are spoken to here do what a message
//! says before sending it returns, and answer what they refuse; so when nothing is there to be
//! read, all went well. A guest whose kernel is emulated is spared a millisecond per answer.
//!
//! It is our own because of who uses it: the agent is a small static program, and half of what the
//! monitor sends is for nf_tables, of which `netlink-packet-route` and `neli` know nothing.
#![forbid(unsafe_code)]

pub mod route;
mod socket;

pub use socket::{Netlink, Subsystem};

use std::io;

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `struct nlattr`.
const ATTRIBUTE: usize = 4;
/// `NLM_F_REQUEST`.
pub const REQUEST: u16 = 1;
/// `NLM_F_ROOT | NLM_F_MATCH`: answer with all there is.
pub const DUMP: u16 = 0x300;
/// `NLM_F_REPLACE`.
pub const REPLACE: u16 = 0x100;
/// `NLM_F_EXCL`: it must not be there yet.
pub const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_CREATE`.
pub const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`.
pub const APPEND: u16 = 0x800;
/// Set in the type of an attribute that holds attributes.
const NESTED: u16 = 0x8000;

/// Messages one after the other, as they are sent in one piece.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Where the message begins that is being written.
    message: usize,
    count: u32,
}

impl Batch {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a message of this kind with a header of its family, and has `fill` add its
    /// attributes. Its number is its place, from 1.
    pub fn message(
        &mut self,
        kind: u16,
        flags: u16,
        family_header: &[u8],
        fill: impl FnOnce(&mut Self),
    ) -> &mut Self {
        self.message = self.bytes.len();
        self.count += 1;
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(self.count.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend(family_header);
        self.pad();
        fill(self);
        let len = (self.bytes.len() - self.message) as u32;
        self.bytes[self.message..][..4].copy_from_slice(&len.to_ne_bytes());
        self
    }

    /// Adds an attribute to the message.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let len = (ATTRIBUTE + value.len()) as u16;
        self.bytes.extend(len.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.pad();
        self
    }

    /// Adds a number in this machine's byte order.
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Adds a number in the network's byte order.
    pub fn big_endian(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Adds a text, with the NUL the kernel expects at its end.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let bytes: Vec<u8> = value.bytes().chain([0]).collect();
        self.attribute(kind, &bytes)
    }

    /// Adds an attribute that holds those which `fill` adds.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let begin = self.bytes.len();
        self.attribute(kind | NESTED, &[]);
        fill(self);
        let len = (self.bytes.len() - begin) as u16;
        self.bytes[begin..][..2].copy_from_slice(&len.to_ne_bytes());
        self
    }

    /// Adds bytes as they are, such as a header inside an attribute.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend(bytes);
        self.pad();
        self
    }

    /// All of it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// A message that was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received<'a> {
    /// Which message of the batch it answers.
    pub number: u32,
    /// What it is.
    pub content: Content<'a>,
}

/// What a received message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    /// The answer to a message: 0, or an error number.
    Answer(i32),
    /// The end of a listing.
    Done,
    /// Something else, of this kind: the family's header and attributes.
    Other(u16, &'a [u8]),
}

/// Reads all answers to what was sent, as [`Netlink::request`] does. `receive` must not wait: it gives the length of what
/// there is, or `WouldBlock`.
///
/// # Errors
/// The first that the kernel answered; what was asked behind it may have been done. And
/// those of `receive`.
pub fn refusals(mut receive: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    let mut first = None;
    loop {
        let len = match receive(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            result => result?,
        };
        for message in messages(&buffer[..len]) {
            if let Content::Answer(number @ 1..) = message.content {
                first.get_or_insert(number);
            }
        }
    }
    first.map_or(Ok(()), |number| Err(io::Error::from_raw_os_error(number)))
}

/// The messages in what was received. What is malformed ends them.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    /// `NLMSG_ERROR`, `NLMSG_DONE`.
    const ERROR: u16 = 2;
    const DONE: u16 = 3;
    std::iter::from_fn(move || {
        let len = u32_at(bytes, 0)? as usize;
        let (kind, number) = (u16_at(bytes, 4)?, u32_at(bytes, 8)?);
        let payload = bytes.get(HEADER..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        let content = match kind {
            ERROR => Content::Answer((u32_at(payload, 0)? as i32).wrapping_neg()),
            DONE => Content::Done,
            kind => Content::Other(kind, payload),
        };
        Some(Received { number, content })
    })
}

/// The attributes in what follows a message's header: their kinds and values. What is
/// malformed ends them.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (len, kind) = (usize::from(u16_at(bytes, 0)?), u16_at(bytes, 2)?);
        let value = bytes.get(ATTRIBUTE..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & !NESTED, value))
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    bytes.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_aligned_and_nested_ones_counted() {
        let mut batch = Batch::new();
        batch.message(7, 0, &[1], |message| {
            message.text(3, "ab");
            message.nested(4, |inner| {
                inner.number(5, 6).attribute(6, &[9]);
            });
        });
        let bytes = batch.as_bytes();
        assert_eq!(bytes.len(), 48);
        let Some(Received {
            number: 1,
            content: Content::Other(7, payload),
        }) = messages(bytes).next()
        else {
            panic!("{bytes:?}");
        };
        assert_eq!(payload[4..12], [7, 0, 3, 0, b'a', b'b', 0, 0]);
        assert_eq!(payload[12..16], [20, 0, 4, 0x80]);
        assert_eq!(payload[24..], [5, 0, 6, 0, 9, 0, 0, 0]);
    }

    #[test]
    fn attributes_are_read_as_they_were_written_until_one_is_malformed() {
        let mut batch = Batch::new();
        batch.message(7, 0, &[], |message| {
            message.text(3, "ab").number(4, 5);
        });
        let mut bytes = batch.as_bytes()[HEADER..].to_vec();
        let all: Vec<_> = attributes(&bytes).collect();
        assert_eq!(all, [(3, &b"ab\0"[..]), (4, &5u32.to_ne_bytes()[..])]);
        bytes[8] = 3;
        assert_eq!(attributes(&bytes).count(), 1);
        assert_eq!(attributes(&bytes[..2]).count(), 0);
    }

    /// Messages of these lengths and kinds, each with a number in it.
    fn received(all: &[(u32, u16, i32)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (len, kind, value) in all {
            bytes.extend(len.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 2]);
            bytes.extend(5u32.to_ne_bytes());
            bytes.extend([0; 4]);
            bytes.extend(value.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn the_first_refusal_counts_and_silence_is_consent() {
        let refused = |answers: &[&[(u32, u16, i32)]]| {
            let mut answers: Vec<_> = answers.iter().map(|all| received(all)).collect();
            answers.reverse();
            refusals(|buffer| {
                let next = answers.pop().ok_or(io::ErrorKind::WouldBlock)?;
                buffer[..next.len()].copy_from_slice(&next);
                Ok(next.len())
            })
        };
        assert!(refused(&[]).is_ok());
        assert!(refused(&[&[(20, 2, 0), (20, 16, 0)]]).is_ok());
        let error = refused(&[&[(20, 2, 0)], &[(20, 2, -17), (20, 2, -1)]]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(17));
    }

    #[test]
    fn malformed_messages_end_what_was_received() {
        let bytes = received(&[(20, 2, -17), (20, 3, 0), (3, 2, 0), (20, 2, 0)]);
        let contents: Vec<_> = messages(&bytes).map(|message| message.content).collect();
        assert_eq!(contents, [Content::Answer(17), Content::Done]);
        assert_eq!(messages(&bytes[..10]).count(), 0);
    }
}
