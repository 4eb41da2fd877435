//! The signal port: how any guest program, without a driver or a kernel change,
//! tells the monitor something (HyperFork paper, section 4.2).
//!
//! A program writes one 32-bit word with `outl`: the [`Message`] in the low 8
//! bits and its argument in the high 24. It reads the port with `inl` to learn
//! which one it is, as from `fork()`: 0 before any fork and in the parent, k in
//! the k-th clone of the latest fork.

/// The I/O port (one 32-bit register).
pub const PORT: u16 = 0x5f0;

/// What the guest says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// I am at the point where I am ready to be cloned; the argument is how
    /// many clones it would like.
    Fork(u32),
    /// I have done my work; the argument is the result code.
    Done(u32),
    /// I am running: sent by a guest without an agent once it is ready to work.
    Ready(u32),
}

const FORK: u32 = 1;
const DONE: u32 = 2;
const READY: u32 = 3;

impl Message {
    /// The word as written to [`PORT`]. Arguments keep their low 24 bits.
    pub const fn encode(self) -> u32 {
        let (kind, argument) = match self {
            Self::Fork(n) => (FORK, n),
            Self::Done(code) => (DONE, code),
            Self::Ready(value) => (READY, value),
        };
        kind | argument << 8
    }

    /// Reads a word; `None` for a kind that means nothing.
    pub const fn decode(word: u32) -> Option<Self> {
        let argument = word >> 8;
        match word & 0xff {
            FORK => Some(Self::Fork(argument)),
            DONE => Some(Self::Done(argument)),
            READY => Some(Self::Ready(argument)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_port() {
        for message in [
            Message::Fork(8),
            Message::Done(0xff_ffff),
            Message::Ready(0),
        ] {
            assert_eq!(Message::decode(message.encode()), Some(message));
        }
        assert_eq!(Message::decode(0), None);
        assert_eq!(Message::decode(0xffff_ffff), None);
    }
}
