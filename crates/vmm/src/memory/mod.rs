//! Guest memory: where it lies, what it is made of, and how it is frozen.
//!
//! ```text
//! guest physical          one Mapping of the monitor        behind it
//! 0 ........ 3 GiB   ->   offset 0 ....                     before the first freeze: a memfd, shared
//! 3 ........ 4 GiB        (devices, APICs)                  after it: the frozen memfd, private,
//! 4 GiB .... end     ->   offset 3 GiB ...                  and large changes to it, under pages of our own
//! ```
mod arena;
mod collect;
pub mod free_pages;
pub mod image;
mod layers;
pub mod layout;
mod own;
pub mod ram;
mod ranges;
mod tracking;

pub use free_pages::FreePages;
pub use image::RamImage;
pub use ram::Ram;
