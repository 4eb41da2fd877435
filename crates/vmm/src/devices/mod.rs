//! Devices: what the guest finds on its buses, and the thread that serves them.

pub mod confinement;
pub mod log;
pub mod serial;
pub mod turns;
pub mod virtio;
pub mod worker;
