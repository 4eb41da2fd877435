//! Guest memory: its layout, what backs it, and how it is frozen and restored.
//!
//! ```text
//! guest physical          one Mapping of the monitor        backed by
//! 0 ........ 3 GiB   ->   offset 0 ....                     before the first freeze: a memfd, shared
//! 3 ........ 4 GiB        (devices, APICs)                  after it: the frozen memfd, private,
//! 4 GiB .... end     ->   offset 3 GiB ...                  and large changes to it, under private pages
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`layout`] | guest physical addresses |
//! | [`ram`] | a machine's RAM: the interface to all of this |
//! | [`backing`] | what backs the RAM, as a state machine |
//! | [`image`], [`layers`] | the result of a freeze: a base, and changes to it |
//! | [`collect`], [`arena`] | copying the pages that a machine has written |
//! | [`tracking`] | tracking writes, so that a fork copies fewer pages |
//! | [`cleanup`] | work that a freeze leaves to be done |
//! | [`free_pages`] | freeing pages that the guest does not use |
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
pub(crate) mod ranges;
pub mod region;
mod tracking;

pub use at_rest::AtRest;
pub use cleanup::DeferredCleanup;
pub use free_pages::FreePages;
pub use image::RamImage;
pub use ram::Ram;
pub use region::GuestMemoryMmap;
