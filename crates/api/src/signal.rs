//! The signal port: how any guest program sends a message to the monitor, without a driver or a
//! change of its kernel (HyperFork paper, section 4.2).
//!
//! | register, 32 bits | written | read |
//! |---|---|---|
//! | [`PORT`] | a [`Message`] | the machine's index: 0 if it was booted, k if it is the k-th clone of a fork |
//! | [`FORK_PORT`] | ignored | a [`ForkStatus`]: the status of the latest fork request |
//!
//! A program that wants the machine forked works as with `fork(2)`, but has to
//! wait, since clones are made while the machine runs on:
//!
//! ```text
//! out PORT, Fork { clones, tag }
//! repeat: in FORK_PORT            until the status is not pending any more
//! ```
//!
//! One fork can be pending at a time. Requests made meanwhile are ignored, which their programs
//! see at once, since the status has the pending request's tag.

/// The I/O port of the first register.
pub const PORT: u16 = 0x5f0;

/// The I/O port of the second register.
pub const FORK_PORT: u16 = PORT + 4;

/// How many ports there are, from [`PORT`] on.
pub const PORT_LEN: u16 = 8;

/// A message of the guest: a kind in the low 8 bits, an argument above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// "Fork me now."
    Fork {
        /// How many clones; up to [`MOST_CLONES`] fit.
        clones: u32,
        /// Any 12 bits, to recognise the answer by.
        tag: u32,
    },
    /// "I have done my work"; the argument is the result code, 24 bits.
    Done(u32),
    /// "I am running": sent by a guest without an agent once it is ready to work.
    Ready(u32),
}

/// The status of the latest fork request: a kind in the low 8 bits, 12 bits of detail, and the
/// 12 bits of the request's tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForkStatus {
    /// The status.
    pub answer: ForkAnswer,
    /// The tag of the request.
    pub tag: u32,
}

/// See [`ForkStatus`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForkAnswer {
    /// There was no request yet.
    None,
    /// Not all clones have come to life yet; in a clone: it has not received its identity yet.
    Pending,
    /// The fork is complete. This is the parent (0) or the clone of this number.
    Forked(u32),
    /// The fork was refused or failed: there is no clone.
    Refused(Refusal),
}

/// Why there was no fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// That many clones cannot be made at once.
    Count = 1,
    /// The machine has used up the forks that it may make.
    Spent,
    /// There are too many machines on the host for guests to make more.
    Crowded,
    /// The host could not do it.
    Failed,
    /// This machine is a clone of another fork, made while its parent was waiting for the one that
    /// it had requested.
    Interrupted,
}

/// Most clones that a message can ask for.
pub const MOST_CLONES: u32 = LOW_12;

const FORK: u32 = 1;
const DONE: u32 = 2;
const READY: u32 = 3;

const PENDING: u32 = 1;
const FORKED: u32 = 2;
const REFUSED: u32 = 3;

const LOW_12: u32 = 0xfff;

impl Message {
    /// The word as written to [`PORT`]. Of results and tags the low bits count; too
    /// many clones stay too many.
    pub const fn encode(self) -> u32 {
        match self {
            Self::Fork { clones, tag } => {
                let fits = clones < MOST_CLONES;
                pack(FORK, if fits { clones } else { MOST_CLONES }, tag)
            }
            Self::Done(code) => DONE | code << 8,
            Self::Ready(value) => READY | value << 8,
        }
    }

    /// Decodes a word; `None` for an unknown kind.
    pub const fn decode(word: u32) -> Option<Self> {
        match word & 0xff {
            FORK => Some(Self::Fork {
                clones: word >> 8 & LOW_12,
                tag: word >> 20,
            }),
            DONE => Some(Self::Done(word >> 8)),
            READY => Some(Self::Ready(word >> 8)),
            _ => None,
        }
    }
}

impl ForkStatus {
    /// The status before any request.
    pub const NONE: Self = Self {
        answer: ForkAnswer::None,
        tag: 0,
    };

    /// The low bits of a number, as many as a tag has.
    pub const fn tag(number: u32) -> u32 {
        number & LOW_12
    }

    /// The word as read from [`FORK_PORT`].
    pub const fn encode(self) -> u32 {
        let (kind, about) = match self.answer {
            ForkAnswer::None => (0, 0),
            ForkAnswer::Pending => (PENDING, 0),
            ForkAnswer::Forked(number) => (FORKED, number),
            ForkAnswer::Refused(why) => (REFUSED, why as u32),
        };
        pack(kind, about, self.tag)
    }

    /// Decodes a word; `None` for one without a meaning, as is read where there is no such register.
    pub fn decode(word: u32) -> Option<Self> {
        let about = word >> 8 & LOW_12;
        let answer = match word & 0xff {
            0 => ForkAnswer::None,
            PENDING => ForkAnswer::Pending,
            FORKED => ForkAnswer::Forked(about),
            REFUSED => ForkAnswer::Refused(Refusal::of(about)?),
            _ => return None,
        };
        let tag = word >> 20;
        Some(Self { answer, tag })
    }
}

impl Refusal {
    const ALL: [Self; 5] = [
        Self::Count,
        Self::Spent,
        Self::Crowded,
        Self::Failed,
        Self::Interrupted,
    ];

    fn of(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|why| *why as u32 == number)
    }
}

const fn pack(kind: u32, about: u32, tag: u32) -> u32 {
    kind | (about & LOW_12) << 8 | (tag & LOW_12) << 20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_port() {
        for message in [
            Message::Fork { clones: 8, tag: 0 },
            Message::Fork {
                clones: MOST_CLONES,
                tag: 0xfff,
            },
            Message::Done(0xff_ffff),
            Message::Ready(0),
        ] {
            assert_eq!(Message::decode(message.encode()), Some(message));
        }
        assert_eq!(Message::decode(0), None);
        assert_eq!(Message::decode(0xffff_ffff), None);
    }

    #[test]
    fn what_does_not_fit_becomes_neither_another_number_of_clones_nor_another_kind() {
        for (clones, tag) in [(4096, 0x1000), (u32::MAX, u32::MAX)] {
            let message = Message::decode(Message::Fork { clones, tag }.encode());
            let (clones, tag) = (MOST_CLONES, ForkStatus::tag(tag));
            assert_eq!(message, Some(Message::Fork { clones, tag }));
        }
    }

    #[test]
    fn statuses_survive_the_port() {
        let mut answers = vec![
            ForkAnswer::None,
            ForkAnswer::Pending,
            ForkAnswer::Forked(0),
            ForkAnswer::Forked(1024),
        ];
        answers.extend(Refusal::ALL.map(ForkAnswer::Refused));
        for answer in answers {
            for tag in [0, 1, 0xfff] {
                let status = ForkStatus { answer, tag };
                assert_eq!(ForkStatus::decode(status.encode()), Some(status));
            }
        }
        assert_eq!(ForkStatus::decode(0), Some(ForkStatus::NONE));
        // A port without a device.
        assert_eq!(ForkStatus::decode(0xffff_ffff), None);
        assert_eq!(ForkStatus::decode(REFUSED | 99 << 8), None);
    }
}
