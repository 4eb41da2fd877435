//! Secrets in files, which only the machine that received them keeps: a clone's agent removes them.

use crate::sys::page::Page;
use hyperfork_api::Secrets;
use hyperfork_api::secret::Secret;
use rustix::fs::{AtFlags, Mode, OFlags, mkdir, open, openat, unlinkat};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// The directory of secret files, and what is in it.
#[derive(Debug)]
pub(crate) struct SecretFiles {
    directory: PathBuf,
    /// The directory, open once there has been a file in it.
    opened: Option<OwnedFd>,
    files: Vec<SecretFile>,
}

#[derive(Debug)]
struct SecretFile {
    name: String,
    content: Option<Page>,
}

impl SecretFiles {
    /// The files of a directory, which is made when there is one to be in it.
    pub(crate) fn in_directory(directory: PathBuf) -> Self {
        Self {
            directory,
            opened: None,
            files: Vec::new(),
        }
    }

    /// Removes the present files, also from programs that have them open, and writes these.
    /// Without any before and now it does nothing.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn replace(&mut self, secrets: &Secrets) -> io::Result<()> {
        for file in self.files.drain(..) {
            if let Some(content) = file.content {
                content.clear();
            }
            if let Some(directory) = &self.opened {
                match unlinkat(directory, &file.name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        for (name, content) in &secrets.files {
            let directory = match &mut self.opened {
                Some(directory) => directory,
                none => none.insert(open_directory(&self.directory)?),
            };
            let content = put(directory, name, content)?;
            self.files.push(SecretFile {
                name: name.clone(),
                content,
            });
        }
        Ok(())
    }
}

fn open_directory(path: &PathBuf) -> io::Result<OwnedFd> {
    match mkdir(path, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

fn put(directory: &OwnedFd, name: &str, content: &Secret) -> io::Result<Option<Page>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = File::from(openat(directory, name, flags, Mode::from_raw_mode(0o400))?);
    file.write_all_at(content.reveal(), 0)?;
    match content.reveal().len() {
        0 => Ok(None),
        len => Page::map(&file, len).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn secrets(files: &[(&str, &str)]) -> Secrets {
        let files = files.iter();
        let files = files.map(|(name, text)| ((*name).to_owned(), Secret::new((*text).into())));
        Secrets {
            variables: Vec::new(),
            files: files.collect(),
        }
    }

    #[test]
    fn files_of_the_machine_before_are_gone_also_for_who_has_them_open() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secrets");
        let mut files = SecretFiles::in_directory(path.clone());
        files.replace(&Secrets::default()).unwrap();
        assert!(!path.exists());
        let long = "x".repeat(100_000);
        files
            .replace(&secrets(&[("a", &long), ("b", ""), ("c", "c")]))
            .unwrap();
        assert_eq!(fs::read_to_string(path.join("a")).unwrap(), long);
        let opened = File::open(path.join("a")).unwrap();
        fs::remove_file(path.join("c")).unwrap();
        files.replace(&secrets(&[("b", "new")])).unwrap();
        let mut bytes = vec![1; long.len()];
        opened.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0));
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(path.join("b")).unwrap(), "new");
        files.replace(&Secrets::default()).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    }
}
