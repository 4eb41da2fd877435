//! The saved state of a device and its transport.

use super::queue_state::QueueState;
use super::registers::RegistersState;
use hyperfork_state::{Record, RecordType};
use serde::{Deserialize, Serialize};

/// A device at rest.
#[derive(Debug, Clone)]
pub struct DeviceState {
    /// The part that all devices have.
    pub transport: TransportState,
    /// The device's own part; choose the device to restore by its kind.
    pub own: Record,
}

/// A transport at rest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TransportState {
    pub(super) registers: RegistersState,
    /// Its rings.
    pub queues: Vec<QueueState>,
}

impl RecordType for TransportState {
    const KIND: &'static str = "virtio-mmio";
    const VERSION: u16 = 1;
}

#[cfg(test)]
impl TransportState {
    /// For golden files: never changed. It has so many rings.
    pub(crate) fn sample(rings: u8) -> Self {
        let queue = QueueState {
            ready: true,
            size: 256,
            desc: 0x1_0000_1000,
            driver: 0x2000,
            device: 0x3000,
            next_avail: 700,
            next_used: 600,
        };
        Self {
            registers: RegistersState::sample(),
            queues: vec![queue; rings.into()],
        }
    }
}
