//! The console device (virtio 1.2, section 5.3): one port.
//!
//! What the guest prints goes to a [`Log`] and to the client that is attached,
//! if any; what the client types goes to the guest. Clients attach by connecting
//! to a Unix socket. There is one at a time: another is turned away.
//!
//! **Forks.** A clone gets its own log and its own socket, and no client: the
//! terminal stays with the parent, and the clone's is "detached to accept no
//! further input" (the HyperFork paper, 4.1, step 7) until a client attaches.
//! Input that the parent's guest has not read yet stays with the parent.

mod client;

use super::{Context, DeviceError, Notify, VirtioDevice, ring};
use crate::blobs::BlobWriter;
use crate::devices::log::Log;
use crate::memory::GuestMemoryMmap;
use client::Clients;
use hyperfork_state::{Record, RecordType, devices};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixListener;
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;
use virtio_queue::QueueT;

/// The ring whose buffers the guest gives us to fill with input (5.3.2).
const RECEIVE: usize = 0;
/// The ring with the guest's output.
const TRANSMIT: usize = 1;

/// Bytes of one transmit buffer that are looked at; a driver sends a page at
/// most, and what is beyond is dropped.
const TRANSMIT_MAX: usize = 64 << 10;

/// The largest size of each ring.
pub(crate) const QUEUE_SIZES: [u16; 2] = [64, 64];

/// A console.
#[derive(Debug)]
pub struct Console {
    log: Log,
    clients: Clients,
}

/// The state of a console: none beyond its rings. See the module's text on forks.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct ConsoleState;

impl RecordType for ConsoleState {
    const KIND: &'static str = devices::CONSOLE.name;
    const VERSION: u16 = 1;
}

impl Console {
    /// A console that clients attach to through `listener`.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new(log: Log, listener: UnixListener) -> io::Result<Self> {
        Ok(Self {
            log,
            clients: Clients::new(listener)?,
        })
    }

    /// A console as it was when the state was saved, but with its own log and
    /// listener, and no client.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn restore(_: &ConsoleState, log: Log, listener: UnixListener) -> io::Result<Self> {
        Self::new(log, listener)
    }

    /// Moves what the client has typed into the guest's buffers, while there is
    /// both.
    fn receive(&mut self, context: Context<'_>) -> Result<Notify, DeviceError> {
        let Context { queues, memory, .. } = context;
        let queue = &mut queues[RECEIVE];
        let mut any = false;
        for _ in 0..queue.size() {
            if !self.clients.has_input() {
                break;
            }
            let Some(chain) = ring::pop(queue, memory)? else {
                break;
            };
            let head = chain.head_index();
            let mut writer = chain.writer(memory)?;
            let typed = self.clients.take_input(writer.available_bytes());
            writer.write_all(&typed)?;
            queue.add_used(memory, head, typed.len() as u32)?;
            any = true;
        }
        let used = any && queue.needs_notification(memory)?;
        Ok(Notify {
            used,
            config: false,
            ..Notify::default()
        })
    }
}

impl VirtioDevice for Console {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_CONSOLE
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        0
    }

    /// Without features, no field of the configuration space means anything.
    fn activate(&mut self, _: u64) {}

    fn reset(&mut self) {}

    fn process_queue(&mut self, index: usize, context: Context<'_>) -> Result<Notify, DeviceError> {
        let memory = context.memory;
        let notify = match index {
            TRANSMIT => ring::serve(context, index, |chain| {
                let output = transmitted(chain, memory)?;
                self.log.append(&output);
                self.clients.send(&output);
                Ok(0)
            })?,
            _ => self.receive(context)?,
        };
        self.clients.update_interest()?;
        Ok(notify)
    }

    fn host_events(&self) -> Option<BorrowedFd<'_>> {
        Some(self.clients.events())
    }

    fn process_host_events(&mut self, context: Context<'_>) -> Result<Notify, DeviceError> {
        self.clients.process();
        let notify = self.receive(context)?;
        self.clients.update_interest()?;
        Ok(notify)
    }

    fn save(&mut self, _: &mut BlobWriter) -> io::Result<Record> {
        Ok(Record::of(&ConsoleState))
    }
}

fn transmitted(chain: ring::Chain<'_>, memory: &GuestMemoryMmap) -> Result<Vec<u8>, DeviceError> {
    let mut reader = chain.reader(memory)?;
    let mut output = vec![0; reader.available_bytes().min(TRANSMIT_MAX)];
    reader.read_exact(&mut output)?;
    Ok(output)
}

#[cfg(test)]
mod tests;
