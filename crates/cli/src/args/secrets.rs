//! The secrets of `run` and `fork`.

use clap::Args;
use hyperfork_api::Secrets as Values;
use hyperfork_api::secret::Secret;
use std::fs;
use std::path::Path;

/// Secrets, as they are given.
#[derive(Debug, Default, Args)]
pub(crate) struct Secrets {
    /// Set a variable for the guest's programs that clones do not get; without a value, pass on
    /// the caller's
    #[arg(long = "secret", value_name = "NAME=VALUE", value_parser = variable)]
    variables: Vec<(String, Secret)>,
    /// Put a file into /run/hyperfork/secrets that clones do not get, under its own name or
    /// another
    #[arg(long = "secret-file", value_name = "PATH[:NAME]", value_parser = file)]
    files: Vec<(String, Secret)>,
}

impl Secrets {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.variables.is_empty() && self.files.is_empty()
    }

    /// The last of each name.
    pub(crate) fn into_values(self) -> Values {
        Values {
            variables: last_of_each(self.variables),
            files: last_of_each(self.files),
        }
    }
}

fn last_of_each(given: Vec<(String, Secret)>) -> Vec<(String, Secret)> {
    let mut kept: Vec<(String, Secret)> = Vec::new();
    for (name, value) in given {
        kept.retain(|(there, _)| *there != name);
        kept.push((name, value));
    }
    kept
}

/// `NAME=VALUE`, or `NAME`. Other than with -e, a name that the caller has no value for is a
/// mistake.
fn variable(text: &str) -> Result<(String, Secret), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, value.to_owned()),
        None => {
            let value = std::env::var(text);
            let missing = |_| format!("there is no variable {text} to pass on: write NAME=VALUE");
            (text, value.map_err(missing)?)
        }
    };
    checked(Values {
        variables: vec![(name.to_owned(), Secret::new(value.into()))],
        files: Vec::new(),
    })
    .map(|mut secrets| secrets.variables.remove(0))
}

/// `PATH[:NAME]`.
fn file(text: &str) -> Result<(String, Secret), String> {
    let (path, name) = match text.rsplit_once(':') {
        Some((path, name)) => (path, Some(name)),
        None => (
            text,
            Path::new(text).file_name().and_then(|name| name.to_str()),
        ),
    };
    let name = name.ok_or("write PATH:NAME")?;
    let content = fs::read(path).map_err(|error| format!("cannot read {path}: {error}"))?;
    checked(Values {
        variables: Vec::new(),
        files: vec![(name.to_owned(), Secret::new(content))],
    })
    .map(|mut secrets| secrets.files.remove(0))
}

fn checked(secrets: Values) -> Result<Values, String> {
    match secrets.check() {
        Ok(()) => Ok(secrets),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_a_value_or_the_callers_and_never_nothing() {
        let shown =
            |text: &str| variable(text).map(|(name, value)| (name, value.reveal().to_vec()));
        assert_eq!(shown("A=1=2"), Ok(("A".to_owned(), b"1=2".to_vec())));
        assert_eq!(shown("PATH").unwrap().0, "PATH");
        for bad in ["HYPERFORK_NOT_SET", "=x", ""] {
            assert!(variable(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_secret_file_has_its_own_name_or_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.pem");
        fs::write(&path, "hush").unwrap();
        let path = path.to_str().unwrap();
        assert_eq!(file(path).unwrap().0, "key.pem");
        let (name, content) = file(&format!("{path}:other")).unwrap();
        assert_eq!((name.as_str(), content.reveal()), ("other", &b"hush"[..]));
        for bad in ["/no/such", &format!("{path}:"), &format!("{path}:a/b"), "/"] {
            assert!(file(bad).is_err(), "{bad:?} was taken");
        }
    }
}
