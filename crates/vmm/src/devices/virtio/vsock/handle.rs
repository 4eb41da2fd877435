//! A handle to the vsock device, by which the rest of the process connects to guest ports.

use super::listener::Listener;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// What a handle asks of the device thread.
#[derive(Debug)]
pub(super) enum Command {
    /// Connect this stream (non-blocking) to a guest port.
    Connect { port: u32, stream: UnixStream },
    /// Accept clients here.
    Publish(Listener),
}

/// A handle to a [`Vsock`](super::Vsock) device, for other threads.
#[derive(Debug, Clone)]
pub struct VsockHandle {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
}

impl VsockHandle {
    pub(super) fn new(commands: Sender<Command>, wake: Arc<OwnedFd>) -> Self {
        Self { commands, wake }
    }

    /// A stream to `guest_port`, without going through the public socket.
    ///
    /// Returns at once; the guest is asked as soon as its driver is ready (for a
    /// clone: has taken notice of its new CID). What is written before the guest
    /// has agreed is kept. The stream ends if the guest refuses, or does not
    /// answer for 10 s. Closing it before the guest has agreed withdraws it.
    ///
    /// # Errors
    /// `NotConnected` when the device is gone; otherwise when the process is out
    /// of descriptors.
    pub fn connect(&self, guest_port: u32) -> io::Result<UnixStream> {
        let (ours, stream) = UnixStream::pair()?;
        stream.set_nonblocking(true)?;
        self.ask(Command::Connect {
            port: guest_port,
            stream,
        })?;
        Ok(ours)
    }

    /// Binds the public socket at `path` and starts accepting: clients write
    /// `CONNECT <port>\n`, read `OK <host port>\n`, and are through. From now on
    /// the guest's own connections to CID 2, port P, go to the Unix socket
    /// `<path>_<P>`. Before this call no other process can connect to the guest, nor the guest to
    /// any. The caller has to remove the file.
    ///
    /// # Errors
    /// When `path` cannot be bound; `NotConnected` when the device is gone.
    pub fn publish(&self, path: &Path) -> io::Result<()> {
        self.ask(Command::Publish(Listener::bind(path)?))
    }

    fn ask(&self, command: Command) -> io::Result<()> {
        self.commands
            .send(command)
            .map_err(|_| io::ErrorKind::NotConnected)?;
        match rustix::io::write(&self.wake, &1u64.to_ne_bytes()) {
            // A counter at its limit wakes the thread, too.
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
