//! The log of a guest's console output: a file that keeps the newest part, and the last lines in
//! memory for the report of why a guest died.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes kept when a log is cut. A log is at most twice as long.
pub const LOG_KEPT: u64 = 1 << 20;
/// Bytes of [`Log::tail`].
pub const TAIL_KEPT: usize = 4096;

/// A bounded log. Clones of the value are the same log, so several devices and
/// the monitor can share it.
///
/// Writing never fails: a guest must not stop because its log's disk is full.
/// What could not be written is missing from the file, not from the tail.
#[derive(Clone, Debug)]
pub struct Log(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    file: File,
    len: u64,
    tail: VecDeque<u8>,
}

impl Log {
    /// Appends to `file`, which must be open for reading and writing, but not with `O_APPEND`.
    ///
    /// # Errors
    /// When the file's length cannot be read.
    pub fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self(Arc::new(Mutex::new(Inner {
            file,
            len,
            tail: VecDeque::new(),
        }))))
    }

    /// Appends guest output.
    pub fn append(&self, bytes: &[u8]) {
        self.inner().append(bytes);
    }

    /// The last [`TAIL_KEPT`] bytes at most that went through this log.
    pub fn tail(&self) -> Vec<u8> {
        self.inner().tail.iter().copied().collect()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn append(&mut self, bytes: &[u8]) {
        let newest = &bytes[bytes.len().saturating_sub(TAIL_KEPT)..];
        let excess = (self.tail.len() + newest.len()).saturating_sub(TAIL_KEPT);
        self.tail.drain(..excess);
        self.tail.extend(newest);

        let newest = &bytes[bytes.len().saturating_sub(LOG_KEPT as usize)..];
        if self.len + newest.len() as u64 > 2 * LOG_KEPT && self.cut().is_err() {
            return;
        }
        if self.file.write_all_at(newest, self.len).is_ok() {
            self.len += newest.len() as u64;
        }
    }

    /// Moves the newest [`LOG_KEPT`] bytes to the front.
    fn cut(&mut self) -> io::Result<()> {
        let kept = LOG_KEPT.min(self.len);
        let mut newest = vec![0; kept as usize];
        self.file.read_exact_at(&mut newest, self.len - kept)?;
        self.file.write_all_at(&newest, 0)?;
        self.file.set_len(kept)?;
        self.len = kept;
        Ok(())
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn a_log_holds_what_was_written_in_order() {
        let file = tempfile::tempfile().unwrap();
        let log = Log::new(file.try_clone().unwrap()).unwrap();
        log.append(b"one\n");
        log.clone().append(b"two\n");
        assert_eq!(contents(&file), b"one\ntwo\n");
        assert_eq!(log.tail(), b"one\ntwo\n");
    }

    #[test]
    fn a_log_that_is_opened_again_goes_on_at_its_end() {
        let file = tempfile::tempfile().unwrap();
        Log::new(file.try_clone().unwrap())
            .unwrap()
            .append(b"before ");
        let log = Log::new(file.try_clone().unwrap()).unwrap();
        log.append(b"after");
        assert_eq!(contents(&file), b"before after");
        assert_eq!(log.tail(), b"after");
    }

    #[test]
    fn a_chatty_guest_keeps_its_newest_output_and_no_more_than_two_mebibytes() {
        let file = tempfile::tempfile().unwrap();
        let log = Log::new(file.try_clone().unwrap()).unwrap();
        let mut all = Vec::new();
        for line in 0..60_000 {
            let line = format!("{line:060}\n");
            log.append(line.as_bytes());
            all.extend_from_slice(line.as_bytes());
        }
        let kept = contents(&file);
        assert!(kept.len() as u64 >= LOG_KEPT && kept.len() as u64 <= 2 * LOG_KEPT);
        assert!(all.ends_with(&kept));
        assert!(all.ends_with(&log.tail()));
        assert_eq!(log.tail().len(), TAIL_KEPT);
    }

    #[test]
    fn one_huge_write_is_cut_to_its_end() {
        let file = tempfile::tempfile().unwrap();
        let log = Log::new(file.try_clone().unwrap()).unwrap();
        let mut huge = vec![b'a'; 3 << 20];
        huge.extend_from_slice(b"end");
        log.append(&huge);
        assert!(contents(&file).ends_with(b"aend"));
        assert!(contents(&file).len() as u64 <= 2 * LOG_KEPT);
    }
}
