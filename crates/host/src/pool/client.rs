//! Getting shells from the pool.

use super::{Answer, MOST_AT_ONCE, PoolDir, Request};
use crate::config::Config;
use crate::handover::{LauncherEnd, receive_within, send};
use hyperfork_state::Shape;
use hyperfork_sys::fds::FdTable;
use hyperfork_sys::{fault, scm};
use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

/// A connection to the user's pool. Shells of the shape it was made for are kept in stock
/// as long as it lives.
#[derive(Debug)]
pub struct Pool {
    socket: UnixStream,
}

/// Shells asked for; the caller goes on with its work until it needs them.
#[derive(Debug)]
#[must_use = "shells that are not received are lost"]
pub struct PendingTake {
    pool: Pool,
    /// How many shells were asked for with each request.
    requests: Vec<usize>,
}

/// How long a pool usually takes at most to come up; then another is started.
const START_TIMEOUT: Duration = Duration::from_millis(500);
/// How long it is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a pool that lives may take to answer a fork, which can do without it. It is in
/// the way of everything else that is asked of the VM.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(300);
/// How long building shells may take for a caller who waits for just that.
const WARM_TIMEOUT: Duration = Duration::from_secs(600);

impl Pool {
    /// Connects, and starts the pool if there is none; `None` when the caller wants none.
    ///
    /// # Errors
    /// When it cannot be started or does not answer.
    pub fn connect(config: &Config, shape: &Shape) -> io::Result<Option<Self>> {
        if config.settings.pool.most == 0 {
            return Ok(None);
        }
        let dir = PoolDir::of(config)?;
        let begun = Instant::now();
        let mut started: Option<Instant> = None;
        let socket = loop {
            match UnixStream::connect(dir.socket()) {
                Ok(socket) => break socket,
                Err(error) if begun.elapsed() > CONNECT_TIMEOUT => return Err(error),
                Err(_) if started.is_some_and(|at| at.elapsed() < START_TIMEOUT) => {
                    thread::sleep(Duration::from_millis(5));
                }
                // There is none, or the last one is just ending.
                Err(_) => match start(config, &dir) {
                    Ok(()) => started = Some(Instant::now()),
                    // That one took the directory along.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        thread::sleep(Duration::from_millis(1));
                    }
                    Err(error) => return Err(error),
                },
            }
        };
        // A pool that does not read would have its clients wait in `send`.
        socket.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        send(&socket, &Request::Register(shape.clone()), &[])?;
        Ok(Some(Self { socket }))
    }

    /// Asks for `count` shells. Returns at once. The pool comes back with the shells.
    ///
    /// # Errors
    /// When the pool is gone.
    pub fn take(self, count: usize) -> io::Result<PendingTake> {
        let mut left = count;
        let mut requests = Vec::new();
        while left > 0 {
            let count = left.min(MOST_AT_ONCE);
            send(&self.socket, &Request::Take(count), &[])?;
            left -= count;
            requests.push(count);
        }
        Ok(PendingTake {
            pool: self,
            requests,
        })
    }

    /// Has the shells in stock preload memory for clones of one VM.
    ///
    /// # Errors
    /// When the pool is gone.
    pub fn preload(&self, hint: Vec<u8>, fds: &FdTable) -> io::Result<()> {
        fault::point("fork.preload")?;
        send(&self.socket, &Request::Preload(hint), fds.as_slice())
    }

    /// The pool's process.
    ///
    /// # Errors
    /// The socket's.
    pub fn pid(&self) -> io::Result<u32> {
        scm::peer(&self.socket)
    }

    fn answer(&self, within: Duration) -> io::Result<Vec<LauncherEnd>> {
        let (answer, sockets): (Answer, _) =
            receive_within(&self.socket, within)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let pairs = sockets.into_iter().zip(answer.shells);
        Ok(pairs
            .map(|(socket, dir)| LauncherEnd::taken(UnixStream::from(socket), dir))
            .collect())
    }
}

impl PendingTake {
    /// The shells, as many as there were and never more than were asked for, and the pool.
    ///
    /// # Errors
    /// When the pool is gone or does not answer; it is no pool any more then.
    pub fn receive(self) -> io::Result<(Vec<LauncherEnd>, Pool)> {
        let mut all = Vec::new();
        for count in self.requests {
            all.extend(self.pool.answer(ANSWER_TIMEOUT)?.into_iter().take(count));
        }
        Ok((all, self.pool))
    }
}

/// Has the pool keep `count` shells in stock and waits until it has them; fewer if that
/// is more than it may keep. The stock shrinks again when the result is dropped.
///
/// # Errors
/// When there is no pool.
pub fn warm(config: &Config, shape: &Shape, count: usize) -> io::Result<Option<Pool>> {
    let Some(pool) = Pool::connect(config, shape)? else {
        return Ok(None);
    };
    send(&pool.socket, &Request::Warm(count), &[])?;
    pool.answer(WARM_TIMEOUT)?;
    Ok(Some(pool))
}

/// Waits until the pool has nothing left to do for a shape: shells that were taken are
/// replaced, and have memory preloaded. Without a pool there is nothing to wait for.
///
/// # Errors
/// When there should be a pool and is none.
pub fn settle(config: &Config, shape: &Shape) -> io::Result<()> {
    let Some(pool) = Pool::connect(config, shape)? else {
        return Ok(());
    };
    send(&pool.socket, &Request::Settle, &[])?;
    pool.answer(WARM_TIMEOUT).map(drop)
}

/// Starts the pool's process. If there is one already, the new one ends at once.
fn start(config: &Config, dir: &PoolDir) -> io::Result<()> {
    dir.make()?;
    let log = File::create(dir.log())?;
    let settings = serde_json::to_string(&config.settings)?;
    config
        .program
        .pool(config.run_dir.path(), &settings)?
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    Ok(())
}
