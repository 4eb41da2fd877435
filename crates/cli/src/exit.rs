//! Every exit status of the program.
//!
//! | status | means |
//! |---|---|
//! | 0 | done |
//! | 1 | it failed |
//! | 2 | the command line makes no sense (clap's) |
//! | 125 | `run` or `exec` could not get as far as the command |
//! | 126 | the command cannot be run in the guest |
//! | 127 | the command is not in the guest |
//! | 130, 143 | ended by SIGINT, SIGTERM |
//! | any | `run` and `exec`: the command's |

use crate::args::{Usage, Verb};
use crate::interrupt::Interrupted;
use crate::ui::StdoutClosed;
use hyperfork_api::guest::Failure;
use hyperfork_host::LaunchError;
use hyperfork_host::agent::AgentError;

/// Done.
pub(crate) const OK: u8 = 0;
/// It failed; the error was printed.
pub(crate) const FAILED: u8 = 1;
/// The command line makes no sense.
pub(crate) const USAGE: u8 = 2;
const NO_COMMAND: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// A program ended by a signal: the shell's convention.
const BY_SIGNAL: i32 = 128;

/// The status when this verb fails for a reason that has none of its own.
pub(crate) fn trouble_with(verb: &Verb) -> u8 {
    match verb {
        Verb::Run(_) | Verb::Exec(_) => NO_COMMAND,
        _ => FAILED,
    }
}

/// The status for an error, by the first of its causes that has one.
pub(crate) fn status_of(error: &anyhow::Error, otherwise: u8) -> u8 {
    error.chain().find_map(status_of_cause).unwrap_or(otherwise)
}

fn status_of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if cause.is::<Usage>() {
        return Some(USAGE);
    }
    if cause.is::<StdoutClosed>() {
        return Some(by_signal(signal_hook::consts::SIGPIPE));
    }
    if let Some(Interrupted(signal)) = cause.downcast_ref() {
        return Some(by_signal(*signal));
    }
    if let Some(LaunchError::Interrupted) = cause.downcast_ref() {
        return Some(by_signal(signal_hook::consts::SIGINT));
    }
    // A transparent error hides what it wraps from the chain.
    let failure = match (cause.downcast_ref(), cause.downcast_ref()) {
        (Some(AgentError::Failed(failure)), _) | (_, Some(LaunchError::Command(failure))) => {
            failure
        }
        _ => cause.downcast_ref()?,
    };
    match failure {
        Failure::NotFound(_) => Some(NOT_FOUND),
        Failure::NotExecutable { .. } => Some(NOT_EXECUTABLE),
        Failure::File { .. } | Failure::Refused(_) => None,
    }
}

/// The status of a program that this signal ended.
pub(crate) fn by_signal(signal: i32) -> u8 {
    of_program(BY_SIGNAL + signal)
}

/// This program's status for a program's: the low eight bits.
pub(crate) fn of_program(status: i32) -> u8 {
    (status & 0xff) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_program_that_is_not_there_is_127_however_deep_the_reason_lies() {
        let failure = || Failure::NotFound("x".to_owned());
        for error in [
            anyhow::Error::from(failure()),
            AgentError::Failed(failure()).into(),
            LaunchError::Command(failure()).into(),
            anyhow::Error::from(AgentError::Failed(failure())).context("in p"),
        ] {
            assert_eq!(status_of(&error, NO_COMMAND), 127);
        }
    }

    #[test]
    fn an_error_without_a_status_of_its_own_has_its_verbs() {
        let error = anyhow::anyhow!("no");
        assert_eq!(status_of(&error, FAILED), 1);
        assert_eq!(status_of(&error, NO_COMMAND), 125);
        let usage = Err::<(), _>(Usage("no".to_owned()))
            .context("really")
            .unwrap_err();
        assert_eq!(status_of(&usage, NO_COMMAND), 2);
    }
}
