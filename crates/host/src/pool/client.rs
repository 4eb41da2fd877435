//! The pool's client, which takes shells from it.

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

/// A connection to the user's pool, which keeps shells of the connection's shape in stock as
/// long as it exists.
#[derive(Debug)]
pub struct Pool {
    socket: UnixStream,
}

/// A request for shells; the caller goes on with its work until it needs them.
#[derive(Debug)]
#[must_use = "shells that are not received are lost"]
pub struct PendingTake {
    pool: Pool,
    /// How many shells were asked for with each request.
    requests: Vec<usize>,
}

/// How long a pool may take to start, before another is started.
const START_TIMEOUT: Duration = Duration::from_millis(500);
/// How long to try to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a pool may take to answer a fork, which can go on without it. Other requests to the
/// VM wait meanwhile.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(300);
/// How long building shells may take for a caller that waits for that alone.
const WARM_TIMEOUT: Duration = Duration::from_secs(600);

impl Pool {
    /// Connects to the pool, and starts it if there is none; `None` if the configuration has no
    /// pool.
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
                // There is no pool, or the last one is just ending.
                Err(_) => match start(config, &dir) {
                    Ok(()) => started = Some(Instant::now()),
                    // The pool that is ending has removed the directory.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        thread::sleep(Duration::from_millis(1));
                    }
                    Err(error) => return Err(error),
                },
            }
        };
        // Without a timeout `send` would wait for a pool that does not read.
        socket.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        send(&socket, &Request::Register(shape.clone()), &[])?;
        Ok(Some(Self { socket }))
    }

    /// Asks for `count` shells and returns at once. [`PendingTake::receive`] gives the pool back.
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

    /// Has shells in stock preload memory for clones of the client's VM.
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
    /// Receives the shells, never more than were asked for, and gives the pool back.
    ///
    /// # Errors
    /// When the pool is gone or does not answer; it cannot be used any more then.
    pub fn receive(self) -> io::Result<(Vec<LauncherEnd>, Pool)> {
        let mut all = Vec::new();
        for count in self.requests {
            all.extend(self.pool.answer(ANSWER_TIMEOUT)?.into_iter().take(count));
        }
        Ok((all, self.pool))
    }
}

/// Waits until the pool has `count` shells in stock, or as many as it may keep. The stock
/// shrinks again when the result is dropped.
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

/// Waits until the pool has nothing left to do for a shape: taken shells are replaced, and the
/// new ones have preloaded memory. Returns at once without a pool.
///
/// # Errors
/// When there should be a pool and it does not answer.
pub fn settle(config: &Config, shape: &Shape) -> io::Result<()> {
    let Some(pool) = Pool::connect(config, shape)? else {
        return Ok(());
    };
    send(&pool.socket, &Request::Settle, &[])?;
    pool.answer(WARM_TIMEOUT).map(drop)
}

/// Starts a pool's process, which ends at once if there is a pool already.
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
