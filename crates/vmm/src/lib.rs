//! The monitor: boots, forks and restores virtual machines, one per process.
//!
//! Layers, each using only those before it:
//!
//! | module | what |
//! |---|---|
//! | [`memory`] | guest RAM: layout, freezing, images |
//! | [`kvm`] | VM and vCPU, and their state |
//! | [`bus`] | from addresses to devices |
//! | [`devices`] | virtio over MMIO, serial |
//! | [`boot`] | kernels and the boot protocol |
//! | [`snapshot`] | a machine at rest |
//! | [`machine`] | all of it, assembled and running |
//!
//! Below all of them is the crate `hyperfork_sys`. What runs in a VM's process around a
//! machine is the crate `hyperfork-monitor`; the fork path begins there, in `fork/mod.rs`,
//! and goes downhill from there.

pub mod boot;
pub mod bus;
pub mod devices;
#[cfg(test)]
mod forbidden;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod snapshot;

use hyperfork_sys as sys;

#[cfg(test)]
use hyperfork_api::one_line;
