//! A captured machine as an artefact: no KVM, no descriptors, no I/O.
//!
//! ```text
//!   Manifest ─┬─ host, taken, shape        where, when, and of what build it was captured
//!             ├─ records ── kind, version, bytes      one of each part of the machine
//!             │      └─ blobs, by place ──┐
//!             └─ blobs  <─────────────────┘  what is too large for a record: memory, disks
//!                  └─ source ──> a carrier finds it: a table of descriptors
//! ```
//!
//! A [`Manifest`] can be checked against itself, moved, and asked for its blobs without decoding
//! any record. Only the type of a part ([`RecordType`]), which lives with that part's code, knows
//! what its record means.
//!
//! `docs/snapshot-format.md` has the format.
#![forbid(unsafe_code)]

mod blob;
mod check;
pub mod devices;
mod envelope;
#[cfg(feature = "goldens")]
pub mod goldens;
mod host;
mod manifest;
mod record;
mod shape;

pub use blob::{Blob, BlobRef, BlobRole, BlobSource};
pub use check::CheckError;
pub use envelope::{EnvelopeError, seal};
pub use host::{BootId, CpuidLeaf, Difference, HostFingerprint, HostKind, OtherHost};
pub use manifest::{Device, Manifest, ManifestError, Taken};
pub use record::{Record, RecordError, RecordType};
pub use shape::Shape;
