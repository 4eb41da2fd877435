//! What of a transport outlives the process.

use super::queue_state::QueueState;
use super::registers::RegistersState;
use crate::devices::virtio::DeviceState;
use serde::{Deserialize, Serialize};

/// A device and its transport at rest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TransportState {
    pub(super) registers: RegistersState,
    /// Its rings.
    pub queues: Vec<QueueState>,
    /// The device's own part; choose the device to restore by it.
    pub device: DeviceState,
}
