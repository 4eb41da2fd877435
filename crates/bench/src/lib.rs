//! Experiments that measure the cost of forking, with raw results that others can check.
//!
//! | module | what |
//! |---|---|
//! | [`fork`] | fork time by memory size, beside cold boot and KVM alone (the HyperFork paper's figure 2) |
//! | [`cow`] | the price of copy-on-write (section 5.1, figure 3) |
//! | [`density`] | memory per clone |
//! | [`soak`] | many forks in a row leave nothing behind |
//! | [`journal`] | results in a file that a later run continues |
//! | [`compare`] | a result beside an earlier one of the same host |
//! | [`plot`], [`csv`] | for papers and spreadsheets |
//!
//! Every result says which host, kernel and commit it is of, and has all samples in
//! it. The experiments drive VMs as every program does: by [`hyperfork_host`].
#![deny(unsafe_code)] // But for one KVM call of `raw`.

mod compare;
pub mod cow;
mod cpu;
mod csv;
pub mod density;
mod error;
pub mod fork;
mod guest;
mod host;
pub mod journal;
mod memory;
pub mod plot;
pub mod soak;
mod stats;
mod stock;
mod vms;

pub use compare::compare;
pub use csv::csv;
pub use error::BenchError;
pub use guest::{Guest, NANO};
pub use host::{HostRecord, State};
pub use journal::{Document, Journal, Plan, Row};
pub use stats::{Summary, percentile};
pub use vms::{Vms, Watch};
