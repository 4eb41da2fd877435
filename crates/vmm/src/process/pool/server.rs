//! The pool's process.

use super::super::handover::{receive, send};
use super::super::rundir::RunDir;
use super::super::signals::reap_children;
use super::builder::Stock;
use super::stock::Client;
use super::{Answer, Request, most, socket};
use crate::sys::descriptors;
use crate::sys::fds::FdTable;
use crate::sys::peer::Peers;
use crate::sys::{sched, secrecy};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

/// Serves until nobody is connected any more.
pub(super) fn main(path: PathBuf) -> ExitCode {
    // Out of the starter's terminal and process group: its Ctrl-C is not ours.
    let _ = rustix::process::setsid();
    descriptors::expect_many();
    sched::prefer_short_turns();
    match serve(&RunDir::at(path)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the pool ends: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(run_dir: &RunDir) -> io::Result<()> {
    secrecy::withhold_memory()?;
    let lock = File::create(run_dir.pool().join("lock"))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        // There is one already.
        return Ok(());
    }
    run_dir.sweep_shells();
    let path = socket(run_dir);
    // Of one that was killed.
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    reap_children()?;
    let stock = Arc::new(Stock::new(most()));
    thread::Builder::new().name("listener".into()).spawn({
        let stock = stock.clone();
        move || listen(&listener, &stock)
    })?;
    stock.build(run_dir);
    // Nobody is connected. Whoever comes now finds no socket and starts another pool,
    // which waits for nothing: the lock goes with this process's directory.
    let _ = fs::remove_file(&path);
    run_dir.remove_pool();
    drop(stock);
    run_dir.sweep_shells();
    Ok(())
}

fn listen(listener: &UnixListener, stock: &Arc<Stock>) {
    let peers = Peers::of_this_process();
    let sockets = listener.incoming().flatten();
    let ours = sockets.filter(|socket| peers.include(socket));
    for (socket, client) in ours.zip((0..).map(Client)) {
        let stock = stock.clone();
        stock.connected();
        let served = thread::Builder::new()
            .name("client".into())
            .spawn(move || converse(&socket, client, &stock));
        if let Err(error) = served {
            eprintln!("a client cannot be served: {error}");
        }
    }
}

fn converse(socket: &UnixStream, client: Client, stock: &Stock) {
    let mut kept = None;
    // A client that says something else than a request is none.
    while let Ok(Some((request, fds))) = receive(socket) {
        let answer = match (request, &kept) {
            (Request::Keep(shape), None) => {
                stock.interest(&shape);
                kept = Some(shape);
                continue;
            }
            (Request::Prime(primer), Some(shape)) => {
                stock.prime(shape, client, primer, FdTable::new(fds));
                continue;
            }
            (Request::Keep(_) | Request::Prime(_), _) => break,
            (Request::Take { shape, count }, _) => stock.take(&shape, client, count),
            (Request::Warm { shape, count }, _) => (Vec::new(), stock.warm(&shape, count)),
            (Request::Settle(shape), _) => (Vec::new(), stock.settle(&shape)),
        };
        let (shells, left) = answer;
        let (sockets, shells): (Vec<_>, _) =
            shells.into_iter().map(|shell| shell.into_parts()).unzip();
        if send(socket, &Answer { shells, left }, &sockets).is_err() {
            break;
        }
    }
    stock.disconnected(kept.as_ref(), client);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Shape;
    use crate::sys::peer::stranger_at;
    use hyperfork_api::Bytes;

    /// Whether this connection gets an answer.
    fn is_answered(socket: &UnixStream) -> bool {
        let shape = Shape {
            cpus: 1,
            memory: Bytes::mib(64),
            net: None,
            shares: false,
            rings: Vec::new(),
        };
        let take = Request::Take {
            shape: shape.clone(),
            count: 0,
        };
        let asked =
            send(socket, &Request::Keep(shape), &[]).and_then(|()| send(socket, &take, &[]));
        asked.is_ok() && matches!(receive::<Answer>(socket), Ok(Some(_)))
    }

    #[test]
    fn another_user_gets_no_shells_and_the_own_one_does() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pool.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let stock = Arc::new(Stock::new(0));
        thread::spawn(move || listen(&listener, &stock));
        assert!(!is_answered(&stranger_at(&path)));
        assert!(is_answered(&UnixStream::connect(&path).unwrap()));
    }
}
