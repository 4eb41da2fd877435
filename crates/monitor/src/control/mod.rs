//! The control socket of a VM's process ([`hyperfork_api::control`]).

mod lines;
mod outlet;
mod presence;
mod request;
mod send;
#[cfg(test)]
mod tests;

pub(crate) use request::{ControlRequest, Responder, no_thread};
pub(crate) use send::send_now;

use hyperfork_api::control::hello::FirstProtocolError;
use hyperfork_api::control::{self, MAX_LINE, Peer, Request, hello};
use hyperfork_api::{Code, Error, excerpt};
use hyperfork_host::lines::{self as wire, line_of};
use hyperfork_sys::clock::Monotonic;
use hyperfork_sys::peer::Peers;
use hyperfork_sys::{accept, note};
use lines::Line;
use outlet::Outlet;
use std::io::{self, BufRead, BufReader, Write};
use std::mem;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// The number of requests whose answers are not written to their connections yet.
#[derive(Debug, Clone, Default)]
pub(super) struct PendingAnswers(Arc<(Mutex<usize>, Condvar)>);

impl PendingAnswers {
    fn add(&self, change: isize) {
        let mut count = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        *count = count.saturating_add_signed(change);
        self.0.1.notify_all();
    }

    /// Waits until all answers are written, but at most a second: a client that does not read
    /// must not keep the process alive.
    pub(super) fn wait(&self) {
        let count = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self
            .0
            .1
            .wait_timeout_while(count, Duration::from_secs(1), |count| *count > 0);
    }
}

/// Most connections at a time; more are closed at once. Each has a thread.
const MAX_CONNECTIONS: usize = 512;

/// Most characters that are said of a request that cannot be read: it may be quoted in them.
const LONGEST_EXCERPT: usize = 300;

/// How often a connection that waits for an answer checks whether its client is still there.
const PRESENCE_INTERVAL: Duration = Duration::from_secs(1);

/// Binds the socket and serves it on threads of its own: one for the listener
/// and one for each connection.
pub(super) fn serve(
    path: &Path,
    pending: PendingAnswers,
    ask: impl Fn(ControlRequest) + Send + Sync + 'static,
) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    let ask = Arc::new(ask);
    let peers = Peers::of_this_process();
    // Each connection holds a clone.
    let open = Arc::new(());
    thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            accept::each(&listener, |stream| {
                if !peers.include(&stream) || Arc::strong_count(&open) > MAX_CONNECTIONS {
                    return;
                }
                let (ask, pending, open) = (ask.clone(), pending.clone(), open.clone());
                let served = thread::Builder::new()
                    .name("control".into())
                    .spawn(move || {
                        serve_connection(stream, &pending, &*ask);
                        drop(open);
                    });
                if let Err(error) = served {
                    note!("a control connection cannot be served: {error}");
                }
            });
        })?;
    Ok(())
}

/// Serves a connection until the client closes it, fails the handshake, or subscribes. An error
/// is the connection's, and ends it.
fn serve_connection(stream: UnixStream, pending: &PendingAnswers, ask: &impl Fn(ControlRequest)) {
    let stream = Arc::new(stream);
    // Without a descriptor of its own: a process that has none left still answers.
    let mut reader = BufReader::new(&*stream);
    let _ = greet(&mut reader, &stream).and_then(|greeting| match greeting {
        Some(greeting) => serve_requests(reader, &stream, greeting, pending, ask),
        None => Ok(()),
    });
}

/// Reads the client's greeting. Returns the VM's, which is written with the first answer; or
/// `None` if the versions are incompatible, which the client has been told.
fn greet(reader: &mut impl BufRead, mut stream: &UnixStream) -> io::Result<Option<Vec<u8>>> {
    let line = match lines::read(reader, MAX_LINE)? {
        Line::Whole(line) => line,
        Line::TooLong => Vec::new(),
        Line::End => return Ok(None),
    };
    let mut greeting = wire::greeting();
    let client = wire::peer_in(&line);
    if client.is_understood() {
        return Ok(Some(greeting));
    }
    let message = hello::other_client(&client);
    match client {
        Peer::Greeted(_) => {
            greeting.extend(refusal(Error::new(Code::UnsupportedVersion, message)));
        }
        // A client of the first protocol reads this as an answer of that protocol.
        Peer::First | Peer::Unreadable => {
            greeting = line_of(&FirstProtocolError { error: message });
        }
    }
    stream.write_all(&greeting)?;
    Ok(None)
}

fn serve_requests(
    mut reader: impl BufRead,
    stream: &Arc<UnixStream>,
    greeting: Vec<u8>,
    pending: &PendingAnswers,
    ask: &impl Fn(ControlRequest),
) -> io::Result<()> {
    // Written together with the first answer.
    let mut ahead = greeting;
    loop {
        let line = match lines::read(&mut reader, MAX_LINE)? {
            Line::End => return Ok(()),
            line => line,
        };
        let arrival = Monotonic::now();
        // It may have given up while this process stood still, or had no descriptor to spare.
        if presence::is_gone(stream) {
            return Ok(());
        }
        let (outlet, rest) = Outlet::new(stream, mem::take(&mut ahead));
        let request = match request_in(line) {
            // From here on the owner writes to the connection.
            Ok(request @ Request::Subscribe(_)) => {
                return ControlRequest::new(request, arrival, stream, outlet).map(ask);
            }
            request => request,
        };
        pending.add(1);
        let asked = match request {
            Ok(request) => ControlRequest::new(request, arrival, stream, outlet).map(ask),
            Err(error) => {
                outlet.send(&refusal(error));
                Ok(())
            }
        };
        let written = asked
            .and_then(|()| await_answer(&rest, stream))
            .and_then(|rest| (&**stream).write_all(&rest));
        pending.add(-1);
        written?;
    }
}

fn request_in(line: Line) -> Result<Request, Error> {
    match line {
        Line::Whole(line) => serde_json::from_slice(&line).map_err(|error| {
            let error = excerpt(&error.to_string(), LONGEST_EXCERPT);
            Error::new(Code::Invalid, format!("this is not a request: {error}"))
        }),
        _ => Err(Error::new(
            Code::TooLong,
            format!("a request has {MAX_LINE} bytes at most"),
        )),
    }
}

/// Waits until the answer is [sent](Outlet), or the client is gone: a wait may last as long as
/// the VM. Returns what had no room.
fn await_answer(rest: &Receiver<Vec<u8>>, client: &UnixStream) -> io::Result<Vec<u8>> {
    loop {
        match rest.recv_timeout(PRESENCE_INTERVAL) {
            Err(RecvTimeoutError::Timeout) if !presence::is_gone(client) => {}
            rest => return rest.map_err(io::Error::other),
        }
    }
}

/// An answer to a request of any type.
fn refusal(error: Error) -> Vec<u8> {
    line_of(&control::Answer::<()>::Error(error))
}
