//! How much memory a process has mapped, roughly and at once (`proc_pid_statm(5)`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const PAGE: usize = 4096;

/// The counters of the process that opens it: a child made by `fork(2)` needs its own.
#[derive(Debug)]
pub struct Statm(File);

/// Bytes in pages that are mapped.
#[derive(Debug, Clone, Copy)]
pub struct Resident {
    /// All of them.
    pub all: usize,
    /// Those that are no file's.
    pub anonymous: usize,
}

impl Statm {
    /// Those of this process.
    ///
    /// # Errors
    /// When `/proc/self/statm` cannot be opened.
    pub fn open() -> io::Result<Self> {
        File::open("/proc/self/statm").map(Self)
    }

    /// What it has mapped now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn resident(&self) -> io::Result<Resident> {
        let mut line = [0; 256];
        let len = self.0.read_at(&mut line, 0)?;
        let line = std::str::from_utf8(&line[..len]).map_err(io::Error::other)?;
        let mut pages = line.split_whitespace().skip(1).map(str::parse::<usize>);
        match (pages.next(), pages.next()) {
            (Some(Ok(all)), Some(Ok(files))) => Ok(Resident {
                all: all * PAGE,
                anonymous: all.saturating_sub(files) * PAGE,
            }),
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
        let before = statm.resident().unwrap();
        let bytes = vec![1; LEN];
        // Other tests give back less meanwhile.
        let now = statm.resident().unwrap();
        assert!(now.anonymous > before.anonymous + LEN / 2);
        assert!(now.all >= now.anonymous);
        drop(bytes);
    }
}
