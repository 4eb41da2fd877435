//! The control socket of a VM's process.

use hyperfork_api::control::{Reply, Request};
use hyperfork_sys::clock::Monotonic;
use hyperfork_sys::peer::Peers;
use hyperfork_sys::{accept, note};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// A request on its way to the owner.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: Request,
    /// When the request had been read.
    pub(super) arrival: Monotonic,
    /// Where the answer goes. Dropping it closes the connection.
    pub(super) reply: Sender<Reply>,
}

/// Longest request line, in bytes.
const MAX_LINE: u64 = 64 << 10;

/// Answers given to the connections and not yet written out.
#[derive(Debug, Clone, Default)]
pub(super) struct Pending(Arc<(Mutex<usize>, Condvar)>);

impl Pending {
    fn add(&self, change: isize) {
        let mut count = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        *count = count.saturating_add_signed(change);
        self.0.1.notify_all();
    }

    /// Waits until every request has its answer on the wire, but not for ever: a
    /// client that does not read must not keep the process alive.
    pub(super) fn wait(&self) {
        let count = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self
            .0
            .1
            .wait_timeout_while(count, Duration::from_secs(1), |count| *count > 0);
    }
}

/// Binds the socket and serves it on threads of its own: one for the listener
/// and one for each connection.
pub(super) fn serve(
    path: &Path,
    pending: Pending,
    ask: impl Fn(Asked) + Send + Sync + 'static,
) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    let ask = Arc::new(ask);
    let peers = Peers::of_this_process();
    thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            accept::each(&listener, |stream| {
                if !peers.include(&stream) {
                    return;
                }
                let (ask, pending) = (ask.clone(), pending.clone());
                let served = thread::Builder::new()
                    .name("control".into())
                    .spawn(move || converse(stream, &pending, &*ask));
                if let Err(error) = served {
                    note!("a control connection cannot be served: {error}");
                }
            });
        })?;
    Ok(())
}

fn converse(mut stream: UnixStream, pending: &Pending, ask: &impl Fn(Asked)) {
    let Ok(reader) = stream.try_clone() else {
        return;
    };
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(read) if read > 0 && line.ends_with(b"\n") => {}
            _ => return,
        }
        let arrival = Monotonic::now();
        pending.add(1);
        let reply = match serde_json::from_slice(&line) {
            Err(error) => Some(Reply::Error(format!("not a request: {error}"))),
            Ok(request) => {
                let (reply, answer) = channel();
                ask(Asked {
                    request,
                    arrival,
                    reply,
                });
                answer.recv().ok()
            }
        };
        let written = reply.map(|reply| {
            let mut line = serde_json::to_vec(&reply).expect("replies are plain data");
            line.push(b'\n');
            stream.write_all(&line)
        });
        pending.add(-1);
        if !matches!(written, Some(Ok(()))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyperfork_sys::peer::stranger_at;

    #[test]
    fn another_user_gets_no_answer_and_the_own_one_does() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        let answer = |asked: Asked| {
            let _ = asked.reply.send(Reply::Error("heard".to_owned()));
        };
        serve(&socket, Pending::default(), answer).unwrap();
        let said_to = |mut stream: UnixStream| {
            // It may have been closed by now.
            let _ = stream.write_all(b"\"info\"\n");
            let mut line = String::new();
            let _ = BufReader::new(stream).read_line(&mut line);
            line
        };
        assert_eq!(said_to(stranger_at(&socket)), "");
        assert_ne!(said_to(UnixStream::connect(&socket).unwrap()), "");
    }
}
