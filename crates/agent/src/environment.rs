//! The environment of the programs that the agent starts, and where it looks for them.

use hyperfork_api::secret::Secret;
use std::collections::BTreeMap;
use std::ffi::{CString, NulError};
use std::os::unix::ffi::OsStringExt;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables by name, as bytes.
#[derive(Debug, Clone)]
pub(crate) struct Environment(BTreeMap<Vec<u8>, Vec<u8>>);

impl Environment {
    /// The agent's own, which for PID 1 is what the kernel's command line says,
    /// with what every program expects to find.
    pub(crate) fn inherited() -> Self {
        let own = std::env::vars_os()
            .map(|(name, value)| (name.into_vec(), value.into_vec()))
            .collect();
        Self::with_defaults(own)
    }

    fn with_defaults(mut variables: BTreeMap<Vec<u8>, Vec<u8>>) -> Self {
        variables
            .entry(b"PATH".to_vec())
            .or_insert_with(|| PATH.into());
        // The kernel starts PID 1 with HOME=/.
        let home = variables.entry(b"HOME".to_vec()).or_default();
        if home.is_empty() || home == b"/" {
            *home = b"/root".to_vec();
        }
        Self(variables)
    }

    /// With variables of a command on top; on a terminal also its type, which is
    /// not the one of the kernel's console.
    pub(crate) fn with(&self, variables: &[(String, String)], terminal: bool) -> Self {
        let mut all = self.0.clone();
        if terminal {
            all.insert(b"TERM".to_vec(), b"xterm".to_vec());
        }
        for (name, value) in variables {
            all.insert(name.clone().into_bytes(), value.clone().into_bytes());
        }
        Self(all)
    }

    /// With secrets on top.
    pub(crate) fn with_secrets(&self, secrets: &[(String, Secret)]) -> Self {
        let mut all = self.0.clone();
        for (name, value) in secrets {
            all.insert(name.clone().into_bytes(), value.reveal().to_vec());
        }
        Self(all)
    }

    /// As `NAME=value` strings.
    ///
    /// # Errors
    /// A variable with a zero byte.
    pub(crate) fn strings(&self) -> Result<Vec<CString>, NulError> {
        self.0
            .iter()
            .map(|(name, value)| CString::new([name.as_slice(), b"=", value].concat()))
            .collect()
    }

    /// The paths under which a program may be found, in the order of PATH.
    ///
    /// # Errors
    /// A name with a zero byte.
    pub(crate) fn candidates(&self, program: &str) -> Result<Vec<CString>, NulError> {
        if program.is_empty() {
            return Ok(Vec::new());
        }
        if program.contains('/') {
            return Ok(vec![CString::new(program)?]);
        }
        let path = self
            .0
            .get(b"PATH".as_slice())
            .map_or(&[][..], Vec::as_slice);
        path.split(|byte| *byte == b':')
            .map(|directory| match directory {
                // An empty element is the working directory (execvp(3)).
                b"" => CString::new(program),
                _ => CString::new([directory, b"/", program.as_bytes()].concat()),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let owned = |text: &str| text.as_bytes().to_vec();
        Environment::with_defaults(
            variables
                .iter()
                .map(|(k, v)| (owned(k), owned(v)))
                .collect(),
        )
    }

    #[test]
    fn what_the_kernels_command_line_says_reaches_programs() {
        let strings = environment(&[
            ("HOME", "/"),
            ("TERM", "linux"),
            ("GLIBC_TUNABLES", "a=b=c"),
        ])
        .strings()
        .unwrap();
        let text: Vec<_> = strings.iter().map(|s| s.to_str().unwrap()).collect();
        let path = format!("PATH={PATH}");
        assert_eq!(
            text,
            ["GLIBC_TUNABLES=a=b=c", "HOME=/root", &path, "TERM=linux"]
        );
    }

    #[test]
    fn a_commands_variables_win_and_a_terminal_has_a_type() {
        let base = environment(&[("TERM", "linux"), ("A", "1")]);
        let with = |variables: &[(&str, &str)], terminal| {
            let owned: Vec<_> = variables
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect();
            base.with(&owned, terminal).strings().unwrap()
        };
        assert!(with(&[("A", "2")], false).contains(&c"A=2".to_owned()));
        assert!(with(&[], true).contains(&c"TERM=xterm".to_owned()));
        assert!(with(&[("TERM", "vt100")], true).contains(&c"TERM=vt100".to_owned()));
    }

    #[test]
    fn names_with_a_slash_are_not_searched_for() {
        let path = environment(&[("PATH", "/a::/b")]);
        assert_eq!(
            path.candidates("x").unwrap(),
            [c"/a/x".to_owned(), c"x".to_owned(), c"/b/x".to_owned()]
        );
        assert_eq!(path.candidates("./x").unwrap(), [c"./x".to_owned()]);
        assert!(path.candidates("").unwrap().is_empty());
        assert!(path.candidates("x\0y").is_err());
    }
}
