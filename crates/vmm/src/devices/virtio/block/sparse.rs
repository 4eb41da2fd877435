//! Finds the holes of a sparse file.

use super::clusters::CLUSTER;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;

/// A run of bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Where it lies.
    pub bytes: Range<u64>,
    /// Whether it has storage; otherwise it reads as zeroes.
    pub stored: bool,
}

/// The runs that make up `bytes` of `file`, in order. Holes are of whole clusters, and
/// are found only where the file system tells them.
///
/// # Errors
/// As `lseek(2)`.
pub fn runs(file: &File, bytes: Range<u64>) -> io::Result<Vec<Run>> {
    let mut runs = Vec::new();
    let mut at = bytes.start;
    while at < bytes.end {
        let data = next(file, SeekFrom::Data(at))?.unwrap_or(bytes.end);
        let data = (data / CLUSTER * CLUSTER).clamp(at, bytes.end);
        let hole = match data == bytes.end {
            true => data,
            false => next(file, SeekFrom::Hole(data.max(at)))?.unwrap_or(bytes.end),
        };
        let hole = hole.next_multiple_of(CLUSTER).clamp(data, bytes.end);
        for (bytes, stored) in [(at..data, false), (data..hole, true)] {
            if !bytes.is_empty() {
                runs.push(Run { bytes, stored });
            }
        }
        at = hole;
    }
    Ok(runs)
}

/// The next byte of that kind; `None` if there is none.
fn next(file: &File, from: SeekFrom) -> io::Result<Option<u64>> {
    let start = match from {
        SeekFrom::Data(start) => Some(start),
        _ => None,
    };
    match seek(file, from) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        // The file system does not support this: all is data, to the end.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(start),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_file_is_told_as_runs_of_whole_clusters_with_and_without_storage() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(100 * CLUSTER).unwrap();
        for cluster in [3, 4, 50] {
            file.write_all_at(&[1; 10], cluster * CLUSTER + 100)
                .unwrap();
        }
        let told = |range: Range<u64>| -> Vec<_> {
            let bytes = range.start * CLUSTER..range.end * CLUSTER;
            let runs = runs(&file, bytes).unwrap();
            let clusters = |run: &Run| run.bytes.start / CLUSTER..run.bytes.end / CLUSTER;
            runs.iter().map(|run| (clusters(run), run.stored)).collect()
        };
        assert_eq!(told(0..3), [(0..3, false)]);
        assert_eq!(
            told(2..60),
            [
                (2..3, false),
                (3..5, true),
                (5..50, false),
                (50..51, true),
                (51..60, false)
            ]
        );
        assert_eq!(told(4..5), [(4..5, true)]);
        assert_eq!(told(60..100), [(60..100, false)]);
        assert_eq!(told(7..7), []);
    }
}
