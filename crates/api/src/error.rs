//! Errors as they are passed between processes: a code, a message, and causes.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;

/// An error that a VM's process reports. `Display` writes it in one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// For programs.
    pub code: Code,
    /// For people: what failed, and where there is something to do about it, what.
    pub message: String,
    /// Its causes, the nearest first.
    #[serde(default)]
    pub causes: Vec<String>,
}

/// The kinds of errors, each with the HTTP status that comes nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request makes no sense for any VM (400).
    Invalid,
    /// The VM is there, and has no such thing (404).
    NotFound,
    /// The VM is in another state than the request is for, such as paused (409).
    WrongState,
    /// The VM is not ready yet; later it may work (409).
    NotReady,
    /// The VM has ended (410).
    NotRunning,
    /// The name, port or address is taken (409).
    InUse,
    /// More than was allowed (429).
    Limit,
    /// The request is longer than [`MAX_LINE`](crate::control::MAX_LINE) (413).
    TooLong,
    /// It takes an agent in the guest, and this guest has none (422).
    NoAgent,
    /// The guest did not do its part: it ended, refused, or became silent (502).
    Guest,
    /// Something did not happen in time (504).
    Timeout,
    /// The client and the VM's process are of versions that do not understand each other (505).
    UnsupportedVersion,
    /// The host's kernel refused: no space, no descriptors, no memory, no permission (507).
    Host,
    /// Anything else, which is a fault of HyperFork's (500).
    Internal,
    /// A code of another version, which this one does not know (500).
    #[serde(other)]
    Other,
}

impl Error {
    /// An error without a cause.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            causes: Vec::new(),
        }
    }

    /// An error with all its causes.
    pub fn of(code: Code, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(code, error.to_string()).with_causes(error.source())
    }

    /// As [`of`](Self::of), with [`Code::Host`] if an error of the system is among the causes, or
    /// else [`Code::Internal`].
    pub fn of_any(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::of(Code::of_cause(error).unwrap_or(Code::Internal), error)
    }

    /// A message, with `error` as its first cause.
    pub fn because(
        code: Code,
        message: impl Into<String>,
        cause: &(dyn std::error::Error + 'static),
    ) -> Self {
        Self::new(code, message).with_causes(Some(cause))
    }

    fn with_causes(mut self, mut cause: Option<&(dyn std::error::Error + 'static)>) -> Self {
        while let Some(error) = cause {
            match error.downcast_ref::<Self>() {
                Some(reported) => {
                    self.causes.push(reported.message.clone());
                    self.causes.extend_from_slice(&reported.causes);
                }
                None => self.causes.push(error.to_string()),
            }
            cause = error.source();
        }
        self
    }
}

impl Code {
    /// [`Code::Host`], if an error of the system's is among the causes.
    pub fn of_cause(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if error.is::<io::Error>() {
                return Some(Self::Host);
            }
            cause = error.source();
        }
        None
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut line = self.message.clone();
        for cause in &self.causes {
            // Some errors repeat their cause in their own message.
            if !line.contains(cause.as_str()) {
                write!(f, ": {cause}")?;
                line.push_str(cause);
            }
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot write {path}")]
    struct CannotWrite {
        path: &'static str,
        source: io::Error,
    }

    fn full() -> CannotWrite {
        let source = io::Error::from_raw_os_error(28);
        CannotWrite { path: "x", source }
    }

    #[test]
    fn an_error_keeps_its_causes_and_is_shown_in_one_line() {
        let error = Error::of_any(&full());
        assert_eq!(error.code, Code::Host);
        assert_eq!(error.message, "cannot write x");
        assert_eq!(error.causes.len(), 1);
        let line = error.to_string();
        assert!(line.starts_with("cannot write x: No space left"), "{line}");
        let wire = serde_json::to_value(&error).unwrap();
        assert_eq!(wire["code"], "host");
        assert_eq!(serde_json::from_value::<Error>(wire).unwrap(), error);
    }

    #[test]
    fn an_error_of_a_kind_that_is_not_known_yet_keeps_its_message() {
        let error: Error = serde_json::from_str(r#"{"code":"newcode","message":"why"}"#).unwrap();
        assert_eq!(error, Error::new(Code::Other, "why"));
    }

    #[test]
    fn a_cause_that_was_said_already_is_not_said_again() {
        let error = Error::because(
            Code::Guest,
            "it failed: no init",
            &Error::new(Code::Guest, "no init"),
        );
        assert_eq!(error.to_string(), "it failed: no init");
    }
}
