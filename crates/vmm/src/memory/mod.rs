//! Guest memory: where it lies, what it is made of, and how it is frozen.
//!
//! ```text
//! guest physical          one Mapping of the monitor        behind it
//! 0 ........ 3 GiB   ->   offset 0 ....                     before the first freeze: a memfd, shared
//! 3 ........ 4 GiB        (devices, APICs)                  after it: the frozen memfd, private,
//! 4 GiB .... end     ->   offset 3 GiB ...                  and large changes to it, under pages of our own
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`layout`] | guest physical addresses |
//! | [`ram`] | a machine's RAM: all that is asked of it |
//! | [`backing`] | what backs it, as a state machine |
//! | [`image`], [`layers`] | what a freeze makes: a base, and changes to it |
//! | [`collect`], [`arena`] | copying what a machine has written |
//! | [`tracking`] | noticing it, so that less is copied |
//! | [`cleanup`] | what a freeze leaves to be done |
//! | [`free_pages`] | giving back what the guest does not need |
//! | [`region`] | guest memory for devices and loaders |
mod arena;
mod at_rest;
mod backing;
pub mod cleanup;
mod collect;
pub mod free_pages;
pub mod image;
mod layers;
pub mod layout;
pub mod ram;
mod ranges;
pub mod region;
mod tracking;

pub use at_rest::AtRest;
pub use cleanup::DeferredCleanup;
pub use free_pages::FreePages;
pub use image::RamImage;
pub use ram::Ram;
pub use region::GuestMemoryMmap;
