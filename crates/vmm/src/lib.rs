//! The monitor: boots, forks and restores virtual machines, one per process.
//!
//! Layers, each using only those before it:
//!
//! | module | what |
//! |---|---|
//! | [`sys`] | the host kernel, wrapped once; nearly all `unsafe` |
//! | [`net`] | the namespace around a VM: addresses, links, translation |
//! | [`memory`] | guest RAM: layout, freezing, images |
//! | [`kvm`] | VM and vCPU, and their state |
//! | [`bus`] | from addresses to devices |
//! | [`devices`] | virtio over MMIO, serial |
//! | [`boot`] | kernels and the boot protocol |
//! | [`snapshot`] | a machine at rest |
//! | [`machine`] | all of it, assembled and running |
//! | [`process`] | a process per VM, and how it is reached |
//!
//! The fork path begins in `process/fork/mod.rs` and goes downhill from there.

pub mod boot;
pub mod bus;
pub mod devices;
#[cfg(test)]
mod forbidden;
pub mod identity;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod net;
pub mod process;
pub mod snapshot;
pub mod sys;

/// An error and its causes in one line, as people read them.
pub fn one_line(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(": ");
        words.push_str(&error.to_string());
        cause = error.source();
    }
    words
}
