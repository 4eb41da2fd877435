//! The pool's process.

use super::policy::Client;
use super::stock::Stock;
use super::{Answer, MOST_AT_ONCE, PoolDir, Request};
use crate::config::{Config, Settings};
use crate::handover::{receive, send};
use crate::program::Program;
use crate::run_dir::RunDir;
use hyperfork_state::Shape;
use hyperfork_sys::fds::FdTable;
use hyperfork_sys::peer::Peers;
use hyperfork_sys::{accept, descriptors, fault, note, sched, secrecy, signals};
use std::fs;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// How long a client may take to read an answer. If it does not, the shells for it are ended.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the pool of the run directory at `path`, until no client is connected any more.
/// `settings` is a [`Settings`] in JSON.
///
/// # Errors
/// When the pool cannot start.
pub fn main(path: PathBuf, settings: &str) -> io::Result<()> {
    secrecy::withhold_memory()?;
    let config = Config {
        run_dir: RunDir::at(path),
        program: Program::of_this_process(),
        settings: serde_json::from_str::<Settings>(settings)?,
    };
    fault::arm_from(config.run_dir.path());
    // Leaves the terminal and process group of the VM that has started it: Ctrl-C there does not
    // end the pool.
    let _ = rustix::process::setsid();
    descriptors::expect_many();
    sched::use_short_time_slice();
    let served = serve(&config);
    // The shells' network namespaces have ended with them.
    hyperfork_net::tidy(&config.settings.addresses);
    served
}

fn serve(config: &Config) -> io::Result<()> {
    let dir = PoolDir::of(config)?;
    let Some(_lock) = dir.take()? else {
        return Ok(());
    };
    config.run_dir.sweep_shells();
    // The socket of a pool that was killed.
    let _ = fs::remove_file(dir.socket());
    let listener = UnixListener::bind(dir.socket())?;
    let stock = Arc::new(Stock::new(config.settings.pool.most));
    signals::watch_children({
        let stock = stock.clone();
        move |pid, stands_still| stock.lost(pid, stands_still)
    })?;
    thread::Builder::new().name("listener".into()).spawn({
        let stock = stock.clone();
        move || listen(&listener, &stock)
    })?;
    stock.build(config);
    // No client is connected. A client that connects now finds no socket and starts another
    // pool, which need not wait for the lock: it is removed with this pool's directory.
    let _ = fs::remove_file(dir.socket());
    dir.remove();
    drop(stock);
    config.run_dir.sweep_shells();
    Ok(())
}

fn listen(listener: &UnixListener, stock: &Arc<Stock>) {
    let clients = AtomicU64::new(0);
    let peers = Peers::of_this_process();
    accept::each(listener, |socket| {
        if !peers.include(&socket) {
            return;
        }
        let client = Client(clients.fetch_add(1, Ordering::Relaxed));
        let connection = Connection::new(stock.clone(), client);
        let served = thread::Builder::new()
            .name("client".into())
            .spawn(move || connection.serve(&socket));
        if let Err(error) = served {
            note!("a client cannot be served: {error}");
        }
    });
}

/// A connected client. Dropping this disconnects it.
struct Connection {
    stock: Arc<Stock>,
    client: Client,
    shape: Option<Shape>,
}

impl Connection {
    fn new(stock: Arc<Stock>, client: Client) -> Self {
        stock.connected();
        Self {
            stock,
            client,
            shape: None,
        }
    }

    /// Serves the client until it disconnects or breaks the protocol.
    fn serve(mut self, socket: &UnixStream) {
        let _ = socket.set_write_timeout(Some(WRITE_TIMEOUT));
        while let Ok(Some((request, fds))) = receive(socket) {
            if let Err(why) = self.answer(socket, request, FdTable::new(fds)) {
                note!(
                    "a client is disconnected: {}",
                    hyperfork_api::one_line(&why)
                );
                return;
            }
        }
    }

    fn answer(&mut self, socket: &UnixStream, request: Request, fds: FdTable) -> io::Result<()> {
        let refused = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let Some(shape) = &self.shape else {
            let Request::Register(shape) = request else {
                return Err(refused("it did not register a shape first".into()));
            };
            shape
                .check()
                .map_err(|error| refused(hyperfork_api::one_line(&error)))?;
            self.stock.register(&shape);
            self.shape = Some(shape);
            return Ok(());
        };
        let shells = match request {
            Request::Register(_) => return Err(refused("it registers a second shape".into())),
            Request::Preload(hint) => {
                self.stock.preload(shape, self.client, hint, fds);
                return Ok(());
            }
            Request::Take(count) if count > MOST_AT_ONCE => {
                return Err(refused(format!("it requests {count} shells at once")));
            }
            Request::Take(count) => {
                fault::point("pool.take")?;
                self.stock.take(shape, self.client, count)
            }
            Request::Warm(count) => {
                self.stock.warm(shape, count);
                Vec::new()
            }
            Request::Settle => {
                self.stock.settle(shape);
                Vec::new()
            }
        };
        let (sockets, shells): (Vec<_>, _) =
            shells.into_iter().map(|shell| shell.into_parts()).unzip();
        send(socket, &Answer { shells }, &sockets)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.stock.disconnected(self.shape.as_ref(), self.client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyperfork_api::Bytes;
    use hyperfork_sys::peer::stranger_at;

    /// Whether this connection gets an answer.
    fn is_answered(socket: &UnixStream) -> bool {
        let shape = Shape {
            cpus: 1,
            memory: Bytes::mib(64),
            net: None,
            shares: false,
            rings: Vec::new(),
        };
        let kept = send(socket, &Request::Register(shape), &[]);
        let asked = kept.and_then(|()| send(socket, &Request::Take(0), &[]));
        asked.is_ok() && matches!(receive::<Answer>(socket), Ok(Some(_)))
    }

    fn pool(directory: &tempfile::TempDir) -> PathBuf {
        let path = directory.path().join("pool.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let stock = Arc::new(Stock::new(0));
        thread::spawn(move || listen(&listener, &stock));
        path
    }

    #[test]
    fn another_user_gets_no_shells_and_the_own_one_does() {
        let directory = tempfile::tempdir().unwrap();
        let path = pool(&directory);
        assert!(!is_answered(&stranger_at(&path)));
        assert!(is_answered(&UnixStream::connect(&path).unwrap()));
    }

    #[test]
    fn a_client_that_breaks_the_protocol_is_disconnected_and_others_are_served() {
        let directory = tempfile::tempdir().unwrap();
        let path = pool(&directory);
        let impossible = Shape {
            cpus: 1,
            memory: Bytes(1 << 60),
            net: None,
            shares: false,
            rings: Vec::new(),
        };
        let possible = Shape {
            memory: Bytes::mib(64),
            ..impossible.clone()
        };
        let without_shape = vec![Request::Take(1)];
        let of_no_machine = vec![Request::Register(impossible), Request::Take(1)];
        let of_two_shapes = vec![
            Request::Register(possible.clone()),
            Request::Register(possible.clone()),
        ];
        let too_many = vec![Request::Register(possible), Request::Take(MOST_AT_ONCE + 1)];
        for requests in [without_shape, of_no_machine, of_two_shapes, too_many] {
            let client = UnixStream::connect(&path).unwrap();
            for request in requests {
                // The pool may have disconnected it already.
                let _ = send(&client, &request, &[]);
            }
            let answer = receive::<Answer>(&client);
            assert!(!matches!(answer, Ok(Some(_))), "{answer:?}");
        }
        assert!(is_answered(&UnixStream::connect(&path).unwrap()));
    }
}
