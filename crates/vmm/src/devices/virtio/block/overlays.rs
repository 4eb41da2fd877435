//! Makes the files of overlays.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// A file without a name: open for writing and, on its own, for reading only.
type Nameless = io::Result<(File, File)>;

/// Makes files without names in one directory.
///
/// A separate thread makes them, which no guest can reach. The device thread may not open files by
/// name ([`confinement`](crate::devices::confinement)), and needs a file only when its guest writes
/// for the first time.
#[derive(Debug, Clone)]
pub struct Overlays(Sender<Sender<Nameless>>);

impl Overlays {
    /// Those in `dir`. The thread ends with the last of the value's clones.
    ///
    /// # Errors
    /// When the process is out of threads.
    pub fn in_directory(dir: &Path) -> io::Result<Self> {
        let dir: PathBuf = dir.to_owned();
        let (wanted, wishes) = channel::<Sender<Nameless>>();
        thread::Builder::new()
            .name("overlays".into())
            .spawn(move || {
                for wish in wishes {
                    // It fails only if the disk that asked for it is gone.
                    let _ = wish.send(create_nameless(&dir));
                }
            })?;
        Ok(Self(wanted))
    }

    /// A new file.
    ///
    /// # Errors
    /// When the directory cannot be written to.
    pub(super) fn create(&self) -> Nameless {
        let (wish, granted) = channel();
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        self.0.send(wish).map_err(|_| gone())?;
        granted.recv().map_err(|_| gone())?
    }
}

/// O_TMPFILE is not used because opening such a file a second time takes a mounted /proc, which a
/// jailed process may not have.
fn create_nameless(dir: &Path) -> Nameless {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!(".overlay-{}-{number}", process::id()));
        let mut options = OpenOptions::new();
        let writer = match options.write(true).create_new(true).mode(0o600).open(&path) {
            // A killed process with the same PID has left it behind.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            result => result?,
        };
        let reader = File::open(&path);
        fs::remove_file(&path)?;
        return Ok((writer, reader?));
    }
}
