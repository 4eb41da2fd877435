//! Values with a form of their own.

use hyperfork_api::{Bytes, Egress, VmSpec};
use std::time::Duration;

/// A time span: `120s`, `2m`, `500ms`, `1m 30s`, or plain seconds.
///
/// # Errors
/// What is wrong with it.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text)
            .map_err(|_| "not a time: write 120s, 2m or 500ms".to_owned()),
    }
}

/// How long to wait for a guest: a time span of a millisecond or more, since no guest is ready at
/// once.
///
/// # Errors
/// What is wrong with it.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if time.as_millis() == 0 => {
            Err("no guest is ready at once: wait 1ms or more".to_owned())
        }
        time => Ok(time),
    }
}

/// A guest's memory.
///
/// # Errors
/// What is wrong with it.
pub(super) fn memory(text: &str) -> Result<Bytes, String> {
    let memory: Bytes = text.parse().map_err(|error| format!("{error}"))?;
    let (least, step) = (VmSpec::MIN_MEMORY, VmSpec::MEMORY_STEP);
    if memory < least {
        return Err(format!("a VM needs at least {least}"));
    }
    if !memory.0.is_multiple_of(step.0) {
        return Err(format!("memory comes in steps of {step}"));
    }
    Ok(memory)
}

/// One of those whom a guest may connect to; as it was written, for what it means depends on
/// the others.
///
/// # Errors
/// What is wrong with it.
pub(super) fn egress(text: &str) -> Result<String, String> {
    Egress::of(&[text]).map(|_| text.to_owned())
}

/// A disk's size.
///
/// # Errors
/// What is wrong with it.
pub(super) fn disk_size(text: &str) -> Result<Bytes, String> {
    let size: Bytes = text.parse().map_err(|error| format!("{error}"))?;
    if size < Bytes::mib(16) || size > Bytes::mib(1 << 20) {
        return Err("a disk has 16MiB to 1TiB".to_owned());
    }
    if !size.0.is_multiple_of(Bytes::mib(1).0) {
        return Err("a disk's size is a whole number of MiB".to_owned());
    }
    Ok(size)
}

/// A variable, `NAME=VALUE`, or `NAME` to pass on the caller's own; `None` where
/// the caller has none of that name.
pub(super) fn variable(text: &str) -> Result<(String, Option<String>), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, std::env::var(text).ok()),
    };
    match name {
        "" => Err("a variable needs a name: write NAME=VALUE".to_owned()),
        name => Ok((name.to_owned(), value)),
    }
}

/// Those variables that have a value.
pub(super) fn variables(given: &[(String, Option<String>)]) -> Vec<(String, String)> {
    given
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), value.clone()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_unit_or_as_seconds() {
        for (text, ms) in [
            ("120s", 120_000),
            ("2m", 120_000),
            ("500ms", 500),
            ("7", 7000),
            ("1h", 3_600_000),
            ("1m30s", 90_000),
            ("1.5s", 1500),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in [
            "",
            "s",
            "1.5",
            "2 parsecs",
            "-1",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(duration(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn no_time_at_all_is_no_timeout() {
        assert_eq!(timeout("1ms"), Ok(Duration::from_millis(1)));
        for bad in ["0", "0s", "0ms", "999us"] {
            assert!(timeout(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn memory_that_no_vm_can_have_is_refused() {
        assert_eq!(memory("512MiB"), Ok(Bytes::mib(512)));
        assert_eq!(memory("512m"), memory("512MiB"));
        for bad in ["32MiB", "65MiB", "100000001", "512MB", "lots"] {
            assert!(memory(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_variable_without_a_value_is_the_callers() {
        assert_eq!(
            variable("A=1=2"),
            Ok(("A".to_owned(), Some("1=2".to_owned())))
        );
        assert_eq!(variable("A="), Ok(("A".to_owned(), Some(String::new()))));
        assert_eq!(
            variable("HYPERFORK_NOT_SET"),
            Ok(("HYPERFORK_NOT_SET".to_owned(), None))
        );
        assert!(variable("=x").is_err());
        let path = variable("PATH").unwrap();
        let kept = variables(std::slice::from_ref(&path));
        assert_eq!(kept, [(path.0, path.1.unwrap())]);
    }
}
