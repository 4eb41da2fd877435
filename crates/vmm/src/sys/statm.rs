//! How much memory a process has of its own, roughly and at once (`proc_pid_statm(5)`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const PAGE: usize = 4096;

/// The counters of the process that opens it: a child made by `fork(2)` needs its own.
#[derive(Debug)]
pub struct Statm(File);

impl Statm {
    /// Those of this process.
    ///
    /// # Errors
    /// When `/proc/self/statm` cannot be opened.
    pub fn open() -> io::Result<Self> {
        File::open("/proc/self/statm").map(Self)
    }

    /// Bytes in pages that are no file's.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn anonymous(&self) -> io::Result<usize> {
        let mut line = [0; 256];
        let len = self.0.read_at(&mut line, 0)?;
        let line = std::str::from_utf8(&line[..len]).map_err(io::Error::other)?;
        let mut pages = line.split_whitespace().skip(1).map(str::parse::<usize>);
        match (pages.next(), pages.next()) {
            (Some(Ok(resident)), Some(Ok(files))) => Ok(resident.saturating_sub(files) * PAGE),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_counts() {
        const LEN: usize = 256 << 20;
        let statm = Statm::open().unwrap();
        let before = statm.anonymous().unwrap();
        let bytes = vec![1; LEN];
        // Other tests give back less meanwhile.
        assert!(statm.anonymous().unwrap() > before + LEN / 2);
        drop(bytes);
    }
}
