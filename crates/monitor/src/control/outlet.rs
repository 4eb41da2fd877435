//! The way of one answer to its client.

use super::send::send_what_fits;
use std::mem;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Takes one answer, on the thread that has it, and sends at once as much as the connection has
/// room for. The connection's thread gets the rest, because only that thread may wait for the
/// client to read. (All of it used to pass through that thread: the client of a fork waited for
/// one thread more to be scheduled beside its clones' vCPUs.)
#[derive(Debug)]
pub(super) struct Outlet {
    connection: Arc<UnixStream>,
    /// What the client is sent before the answer.
    ahead: Vec<u8>,
    rest: Sender<Vec<u8>>,
}

impl Outlet {
    /// The outlet, and where the connection's thread receives the rest of the answer, which is
    /// mostly empty.
    pub(super) fn new(connection: &Arc<UnixStream>, ahead: Vec<u8>) -> (Self, Receiver<Vec<u8>>) {
        let (rest, received) = channel();
        let outlet = Self {
            connection: connection.clone(),
            ahead,
            rest,
        };
        (outlet, received)
    }

    /// Sends the answer.
    pub(super) fn send(mut self, answer: &[u8]) {
        let mut bytes = mem::take(&mut self.ahead);
        bytes.extend_from_slice(answer);
        // The connection's thread meets an error again, and ends the connection.
        let sent = send_what_fits(&self.connection, &bytes).unwrap_or(0);
        bytes.drain(..sent);
        // That thread may have given up, because the client is gone.
        let _ = self.rest.send(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn an_answer_is_sent_as_far_as_there_is_room_and_the_rest_left_to_the_connection() {
        let (mut client, served) = UnixStream::pair().unwrap();
        let served = Arc::new(served);
        let answer: Vec<u8> = (0..4 << 20).map(|byte| (byte % 251) as u8).collect();
        let (outlet, rest) = Outlet::new(&served, b"hello\n".to_vec());
        outlet.send(&answer);
        let rest = rest.recv().unwrap();
        assert!(!rest.is_empty() && rest.len() < answer.len());
        let writing = std::thread::spawn(move || (&*served).write_all(&rest).unwrap());
        let mut read = Vec::new();
        client.read_to_end(&mut read).unwrap();
        writing.join().unwrap();
        assert_eq!(read, [b"hello\n", answer.as_slice()].concat());
    }

    #[test]
    fn an_answer_to_a_client_that_is_gone_is_left_over_as_a_whole() {
        let (client, served) = UnixStream::pair().unwrap();
        drop(client);
        let (outlet, rest) = Outlet::new(&Arc::new(served), Vec::new());
        outlet.send(b"answer");
        assert_eq!(rest.recv().unwrap(), b"answer");
    }
}
