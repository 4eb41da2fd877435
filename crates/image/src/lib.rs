//! Guest images: a kernel and a root file system, built on this machine and
//! cached by content.
//!
//! ```text
//! <cache root>/
//!   images/<name>.json            which artifacts make up an image
//!   kernels/<key>/                vmlinux, bzImage
//!   trees/<key>/root.tar          a distribution's files, without our agent
//!   roots/<key>/rootfs.ext4       a bootable disk
//!   locks/                        one lock file per artifact
//!   tmp/                          what is being built
//! ```
//!
//! An artifact's key is a digest of everything that goes into it, so an artifact
//! that is there is right and is never changed. It is built beside its place,
//! made durable and renamed into it: a build that is interrupted, however
//! rudely, leaves nothing that can be mistaken for a result. Of several builders
//! of one artifact the first builds and the others wait for it.
//!
//! Everything a build needs is either embedded in this crate (configuration,
//! patches, recipes, the agent) or comes from the distribution's packages.
#![forbid(unsafe_code)]

mod cache;
mod digest;
mod distribution;
mod error;
mod host;
mod image;
mod kernel;
mod known;
mod manifest;
mod progress;
mod recipe;
mod resize;
mod rootfs;
mod store;
mod tool;

pub use digest::{Digest, Hasher};
pub use distribution::{BusyboxTree, DebianTree};
pub use error::{BuildError, CacheError};
pub use host::HostError;
pub use image::{Environment, Image};
pub use kernel::LinuxKernel;
pub use progress::Progress;
pub use recipe::{ImageRecipe, Job, Recipe};
pub use resize::resize;
pub use rootfs::{Ext4Root, GuestFile};
pub use store::{ImageError, ImageStore};
pub use tool::{Tool, ToolError};
