//! The packet header (5.10.6) and its constants.
//!
//! Not those of the crate `virtio-vsock` (0.12): its packet takes payload from
//! a single descriptor only, while Linux sends large packets (and `MSG_ZEROCOPY`)
//! as one descriptor for every fragment; and its header and constants cannot be had alone.

use zerocopy::{FromBytes, Immutable, IntoBytes, transmute};

/// Length of a [`Header`] on the ring, in bytes.
pub(super) const HEADER_LEN: usize = size_of::<Header>();

/// The host's well-known CID (5.10.4).
pub(super) const HOST_CID: u64 = 2;

/// A reliable byte stream, the only socket type offered (5.10.6.6).
pub(super) const TYPE_STREAM: u16 = 1;

/// Operations (5.10.6).
pub(super) mod op {
    /// Asks for a connection.
    pub(in super::super) const REQUEST: u16 = 1;
    /// Grants a connection.
    pub(in super::super) const RESPONSE: u16 = 2;
    /// Refuses, aborts, or ends a connection.
    pub(in super::super) const RST: u16 = 3;
    /// Will not receive, or not send, any more.
    pub(in super::super) const SHUTDOWN: u16 = 4;
    /// Carries payload.
    pub(in super::super) const RW: u16 = 5;
    /// Tells how much may be sent.
    pub(in super::super) const CREDIT_UPDATE: u16 = 6;
    /// Asks how much may be sent.
    pub(in super::super) const CREDIT_REQUEST: u16 = 7;
}

/// Flags of [`op::SHUTDOWN`] (5.10.6.5).
pub(super) mod shutdown {
    /// The sender of this packet will not receive any more data.
    pub(in super::super) const RECEIVE: u32 = 1;
    /// The sender of this packet will not send any more data.
    pub(in super::super) const SEND: u32 = 2;
    /// Neither.
    pub(in super::super) const BOTH: u32 = RECEIVE | SEND;
}

/// `struct virtio_vsock_hdr`, as it is on the ring: little-endian, as our hosts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C, packed(4))]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    /// Length of the payload that follows, in bytes.
    pub(super) len: u32,
    /// Socket type.
    pub(super) kind: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    /// Total receive buffer of the packet's sender, in bytes.
    pub(super) buf_alloc: u32,
    /// How many bytes the packet's sender has taken out of that buffer, ever.
    pub(super) fwd_cnt: u32,
}

impl Header {
    pub(super) fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Self {
        transmute!(*bytes)
    }

    pub(super) fn to_bytes(self) -> [u8; HEADER_LEN] {
        transmute!(self)
    }

    /// The RST that answers this packet, whatever it was (5.10.6.4.2).
    pub(super) fn refusal(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: op::RST,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_header_survives_the_ring(bytes in proptest::array::uniform32(any::<u8>()), tail in proptest::array::uniform12(any::<u8>())) {
            let mut all = [0; HEADER_LEN];
            all[..32].copy_from_slice(&bytes);
            all[32..].copy_from_slice(&tail);
            prop_assert_eq!(Header::from_bytes(&all).to_bytes(), all);
        }
    }

    #[test]
    fn fields_sit_where_the_specification_puts_them() {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = 3;
        bytes[8] = 2;
        bytes[16] = 4;
        bytes[20] = 5;
        bytes[24] = 6;
        bytes[28] = 1;
        bytes[30] = op::RW as u8;
        bytes[32] = 7;
        bytes[36] = 8;
        bytes[40] = 9;
        let expected = Header {
            src_cid: 3,
            dst_cid: HOST_CID,
            src_port: 4,
            dst_port: 5,
            len: 6,
            kind: TYPE_STREAM,
            op: op::RW,
            flags: 7,
            buf_alloc: 8,
            fwd_cnt: 9,
        };
        assert_eq!(Header::from_bytes(&bytes), expected);
    }
}
