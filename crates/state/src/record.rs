//! Records: the state of one part of a machine, as bytes with a kind and a version.

use crate::BlobRef;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The state of one part of a machine. Its bytes are the [postcard](https://docs.rs/postcard)
/// encoding of the type that `kind` and `version` name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The part.
    pub kind: Cow<'static, str>,
    /// The version of its encoding.
    pub version: u16,
    /// The blobs that it refers to.
    pub blobs: Vec<BlobRef>,
    /// The state itself.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// A type that is encoded as a record. A change to its encoding needs a new version; golden files
/// detect an accidental one.
pub trait RecordType: Serialize + DeserializeOwned {
    /// The kind of its records.
    const KIND: &'static str;
    /// The version that is written, and read.
    const VERSION: u16;

    /// The blobs that it refers to. (One that is left out here fails the manifest's
    /// [check](crate::Manifest::check).)
    fn blobs(&self) -> Vec<BlobRef> {
        Vec::new()
    }
}

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It is of another part of a machine, or of one that this program does not know.
    #[error("a record of {found:?} stands where one of {wanted} belongs")]
    Kind {
        /// What belongs there.
        wanted: &'static str,
        /// What it says it is.
        found: String,
    },
    /// It is from another version of HyperFork.
    #[error("this program reads {kind} records of version {known}, not {found}")]
    Version {
        /// Of what part.
        kind: &'static str,
        /// The record's version.
        found: u16,
        /// The one that can be read.
        known: u16,
    },
    /// It is cut off, or holds impossible values.
    #[error("a record of {kind} cannot be read")]
    Malformed {
        /// Of what part.
        kind: &'static str,
        /// What is wrong with it.
        source: postcard::Error,
    },
    /// There is more in it than its type has.
    #[error("{bytes} bytes are left over in a record of {kind}")]
    LeftOver {
        /// Of what part.
        kind: &'static str,
        /// How much more.
        bytes: usize,
    },
    /// It does not refer to the blobs that it is listed with.
    #[error("a record of {kind} refers to other blobs than it says")]
    Blobs {
        /// Of what part.
        kind: &'static str,
    },
}

impl Record {
    /// The record of a state.
    pub fn of<T: RecordType>(state: &T) -> Self {
        Self {
            kind: Cow::Borrowed(T::KIND),
            version: T::VERSION,
            blobs: state.blobs(),
            bytes: postcard::to_stdvec(state).expect("a state is plain data"),
        }
    }

    /// The state in it.
    ///
    /// # Errors
    /// [`RecordError`] for a record that is not of this type in its present version.
    pub fn decode<T: RecordType>(&self) -> Result<T, RecordError> {
        let kind = T::KIND;
        if self.kind != kind {
            let (wanted, found) = (kind, self.kind.clone().into_owned());
            return Err(RecordError::Kind { wanted, found });
        }
        if self.version != T::VERSION {
            let (found, known) = (self.version, T::VERSION);
            return Err(RecordError::Version { kind, found, known });
        }
        let state: T = match postcard::take_from_bytes(&self.bytes) {
            Ok((state, [])) => state,
            Ok((_, rest)) => {
                let bytes = rest.len();
                return Err(RecordError::LeftOver { kind, bytes });
            }
            Err(source) => return Err(RecordError::Malformed { kind, source }),
        };
        match state.blobs() == self.blobs {
            true => Ok(state),
            false => Err(RecordError::Blobs { kind }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct Clockwork {
        wheels: Vec<u32>,
        spring: BlobRef,
    }

    impl RecordType for Clockwork {
        const KIND: &'static str = "clockwork";
        const VERSION: u16 = 3;

        fn blobs(&self) -> Vec<BlobRef> {
            vec![self.spring]
        }
    }

    fn record() -> Record {
        Record::of(&Clockwork {
            wheels: vec![8, 64, 30],
            spring: BlobRef(2),
        })
    }

    /// What is said of a record that was changed.
    fn refusal(change: impl FnOnce(&mut Record)) -> String {
        let mut changed = record();
        change(&mut changed);
        changed.decode::<Clockwork>().unwrap_err().to_string()
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let read: Clockwork = record().decode().unwrap();
        assert_eq!(read.wheels, [8, 64, 30]);
        assert_eq!(record().blobs, [BlobRef(2)]);
    }

    #[test]
    fn a_kind_or_version_that_is_not_known_is_named() {
        let said = refusal(|record| record.kind = "sundial".into());
        assert!(
            said.contains("sundial") && said.contains("clockwork"),
            "{said}"
        );
        let said = refusal(|record| record.version = 4);
        let message = "this program reads clockwork records of version 3, not 4";
        assert_eq!(said, message);
    }

    #[test]
    fn what_is_missing_left_over_or_listed_wrongly_is_an_error() {
        let said = refusal(|record| record.bytes.truncate(4));
        assert!(said.contains("cannot be read"), "{said}");
        let said = refusal(|record| record.bytes.extend([0, 0]));
        assert!(said.contains("2 bytes are left over"), "{said}");
        let said = refusal(|record| record.blobs.clear());
        assert!(said.contains("other blobs"), "{said}");
    }
}
