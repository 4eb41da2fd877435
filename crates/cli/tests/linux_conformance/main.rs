//! What a fork of a Linux guest must be, shown on the image `base` by programs that
//! watch from the inside (`witness/`), and by what is seen from outside.
#![allow(clippy::unwrap_used)] // A test fails by panicking.

#[path = "../support/mod.rs"]
mod support;

mod disk;
mod failures;
mod guest;
mod held;
mod identity;
mod kills;
mod lineage;
mod load;
mod output;
mod secrets;
mod streams;
mod terminal;
mod time;
mod vectors;
mod witness;
