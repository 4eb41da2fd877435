//! A captured machine as an artefact: no KVM, no descriptors, no I/O.
#![forbid(unsafe_code)]

mod shape;

pub use shape::{Shape, rings};
