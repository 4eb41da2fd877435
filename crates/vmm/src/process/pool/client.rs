//! Getting shells from the pool.

use super::super::handover::{Starter, receive, send};
use super::super::rundir::RunDir;
use super::{Answer, MOST_AT_ONCE, POOL_ARGUMENT, Request, VARIABLES, most, socket};
use crate::snapshot::{Primer, Shape};
use crate::sys::fds::FdTable;
use crate::sys::{program, scm};
use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

/// A connection to the user's pool. Shells of the shape it was made for are kept in
/// stock as long as it lives.
#[derive(Debug)]
pub struct Pool {
    socket: UnixStream,
    shape: Shape,
}

/// Shells asked for. Whoever asks does something else meanwhile.
#[derive(Debug)]
#[must_use = "shells that are not received are lost"]
pub(in super::super) struct Taking<'a> {
    pool: &'a Pool,
    /// How many requests are under way.
    requests: usize,
}

/// How long a pool usually takes at most to come up; then another is started.
const COMING_UP: Duration = Duration::from_millis(500);
/// How long it is tried.
const PATIENCE: Duration = Duration::from_secs(10);

impl Pool {
    /// Connects, and starts the pool if there is none; `None` when the user wants none.
    ///
    /// # Errors
    /// When it cannot be started or does not answer.
    pub fn connect(run_dir: &RunDir, shape: &Shape) -> io::Result<Option<Self>> {
        if most() == 0 {
            return Ok(None);
        }
        let begun = Instant::now();
        let mut started: Option<Instant> = None;
        let socket = loop {
            match UnixStream::connect(socket(run_dir)) {
                Ok(socket) => break socket,
                Err(error) if begun.elapsed() > PATIENCE => return Err(error),
                Err(_) if started.is_some_and(|at| at.elapsed() < COMING_UP) => {
                    thread::sleep(Duration::from_millis(5));
                }
                // There is none, or the last one is just ending.
                Err(_) => match start(run_dir) {
                    Ok(()) => started = Some(Instant::now()),
                    // That one took the directory along.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        thread::sleep(Duration::from_millis(1));
                    }
                    Err(error) => return Err(error),
                },
            }
        };
        send(&socket, &Request::Keep(shape.clone()), &[])?;
        let shape = shape.clone();
        Ok(Some(Self { socket, shape }))
    }

    /// Asks for `count` shells. Returns at once.
    ///
    /// # Errors
    /// When the pool is gone.
    pub(in super::super) fn take(&self, count: usize) -> io::Result<Taking<'_>> {
        let mut left = count;
        let mut requests = 0;
        while left > 0 {
            let count = left.min(MOST_AT_ONCE);
            let shape = self.shape.clone();
            send(&self.socket, &Request::Take { shape, count }, &[])?;
            left -= count;
            requests += 1;
        }
        Ok(Taking {
            pool: self,
            requests,
        })
    }

    /// Has the shells in stock made ready for clones of one line.
    ///
    /// # Errors
    /// When the pool is gone.
    pub(in super::super) fn prime(&self, primer: Primer, fds: &FdTable) -> io::Result<()> {
        send(&self.socket, &Request::Prime(primer), fds.as_slice())
    }

    /// The pool's process.
    ///
    /// # Errors
    /// The socket's.
    pub fn pid(&self) -> io::Result<u32> {
        scm::peer(&self.socket)
    }

    fn answer(&self) -> io::Result<Vec<Starter>> {
        let (answer, sockets): (Answer, _) =
            receive(&self.socket)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let pairs = sockets.into_iter().zip(answer.shells);
        Ok(pairs
            .map(|(socket, dir)| Starter::taken(UnixStream::from(socket), dir))
            .collect())
    }
}

impl Taking<'_> {
    /// The shells, as many as there were.
    ///
    /// # Errors
    /// When the pool is gone.
    pub(in super::super) fn receive(self) -> io::Result<Vec<Starter>> {
        let mut all = Vec::new();
        for _ in 0..self.requests {
            all.extend(self.pool.answer()?);
        }
        Ok(all)
    }
}

/// Has the pool keep `count` shells in stock and waits until it has them; fewer if that
/// is more than it may keep. The stock shrinks again when the result is dropped.
///
/// # Errors
/// When there is no pool.
pub fn warm(run_dir: &RunDir, shape: &Shape, count: usize) -> io::Result<Option<Pool>> {
    let Some(pool) = Pool::connect(run_dir, shape)? else {
        return Ok(None);
    };
    let shape = shape.clone();
    send(&pool.socket, &Request::Warm { shape, count }, &[])?;
    pool.answer()?;
    Ok(Some(pool))
}

/// Waits until the pool has nothing left to do for a shape: shells that were taken are
/// replaced, and made ready for whose clones they will be. Without a pool there is nothing
/// to wait for.
///
/// # Errors
/// When there should be a pool and is none.
pub fn settle(run_dir: &RunDir, shape: &Shape) -> io::Result<()> {
    let Some(pool) = Pool::connect(run_dir, shape)? else {
        return Ok(());
    };
    send(&pool.socket, &Request::Settle(shape.clone()), &[])?;
    pool.answer().map(drop)
}

/// Starts the pool's process. If there is one already, the new one ends at once.
///
/// # Errors
/// When no process can be started.
pub fn start(run_dir: &RunDir) -> io::Result<()> {
    let log = File::create(run_dir.make_pool()?.join("pool.log"))?;
    program::this_program(POOL_ARGUMENT, &VARIABLES)?
        .arg(run_dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    Ok(())
}
