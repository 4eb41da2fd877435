//! `cp`.

use clap::Args;
use hyperfork_api::VmName;
use std::path::PathBuf;
use std::str::FromStr;

/// Copy files between host and guest
///
/// As `docker cp`: a directory is copied with all that is in it, SRC/. only what
/// is in it; into DST if that is a directory, otherwise as DST. With - the files
/// come from, or go to, a tar archive on standard input or output. A host file
/// with a colon in its name is written ./like:this.
///
/// On the host nothing but regular files is replaced, in a directory that is copied, too: not
/// devices, pipes, sockets or symbolic links. If DST itself is a link, it is followed.
///
/// VM:/dev/vdb is the disk itself, written as a raw image, also of a VM that is paused
/// or has no agent. What the guest has not written to it yet is not in it: run sync in
/// the guest, or unmount it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hyperfork cp model.bin p:/root/
  hyperfork cp p:/var/log/. logs
  tar c src | hyperfork cp - p:/root
  hyperfork cp p:/dev/vdb data.img")]
pub(crate) struct Cp {
    /// What to copy: PATH, VM:PATH or -
    #[arg(value_name = "SRC")]
    pub(crate) source: Place,
    /// Where to: PATH, VM:PATH or -
    #[arg(value_name = "DST")]
    pub(crate) target: Place,
}

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A path on this host.
    Host(PathBuf),
    /// A path in a guest, from its root directory.
    Guest(VmName, String),
    /// A disk of a VM, as `vdb`.
    Disk(VmName, String),
    /// An archive on standard input or output.
    Archive,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "-" {
            return Ok(Self::Archive);
        }
        if text.is_empty() {
            return Err("a path must not be empty".to_owned());
        }
        if text.starts_with(['/', '.']) {
            return Ok(Self::Host(text.into()));
        }
        match text.split_once(':') {
            None => Ok(Self::Host(text.into())),
            Some((_, "")) => Err("a path in the guest must not be empty".to_owned()),
            Some((vm, path)) => {
                let vm = VmName::new(vm).map_err(|error| error.to_string())?;
                if let Some(device) = disk(path) {
                    return Ok(Self::Disk(vm, device));
                }
                let slash = if path.starts_with('/') { "" } else { "/" };
                Ok(Self::Guest(vm, format!("{slash}{path}")))
            }
        }
    }
}

/// The name in `/dev/vdb` and the like.
fn disk(path: &str) -> Option<String> {
    let name = path.trim_start_matches('/').strip_prefix("dev/")?;
    let letter = name.strip_prefix("vd")?;
    (letter.len() == 1 && letter.as_bytes()[0].is_ascii_lowercase()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart_as_docker_does() {
        let guest = |path: &str| Place::Guest(VmName::new("p").unwrap(), path.to_owned());
        for (text, place) in [
            ("-", Place::Archive),
            ("file", Place::Host("file".into())),
            ("./a:b", Place::Host("./a:b".into())),
            ("/a:b", Place::Host("/a:b".into())),
            ("p:/x", guest("/x")),
            ("p:x/.", guest("/x/.")),
            (
                "p:/dev/vdb",
                Place::Disk(VmName::new("p").unwrap(), "vdb".to_owned()),
            ),
            ("p:/dev/vdb1", guest("/dev/vdb1")),
        ] {
            assert_eq!(text.parse::<Place>().as_ref(), Ok(&place));
        }
        for bad in ["", "p:", "a b:/x", ":x"] {
            assert!(bad.parse::<Place>().is_err(), "{bad:?} was taken");
        }
    }
}
