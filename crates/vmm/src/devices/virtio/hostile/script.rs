//! The script of a hostile driver: bytes, read as addresses, lengths and choices.

use super::{DATA, END, ring_base};

/// The bytes that have not been interpreted yet. Zeroes follow the last one.
pub(super) struct Script<'a>(pub(super) &'a [u8]);

impl Script<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn u8(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        first
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from(self.u32()) | u64::from(self.u32()) << 32
    }

    /// Mostly an address of a buffer, sometimes one at an edge, or any.
    pub(super) fn address(&mut self) -> u64 {
        match self.u8() {
            0..200 => DATA + u64::from(self.u16()) % (END - DATA),
            200..220 => END - u64::from(self.u8()),
            220..235 => ring_base(usize::from(self.u8() % 4)) + u64::from(self.u16() % 0x1000),
            235..245 => u64::MAX - u64::from(self.u8()),
            245.. => self.u64(),
        }
    }

    /// Mostly a length of a buffer, sometimes 0 or any.
    pub(super) fn length(&mut self) -> u32 {
        match self.u8() {
            0..60 => 16,
            60..90 => 1,
            90..150 => u32::from(self.u8()),
            150..200 => 512 * (1 + u32::from(self.u8() % 32)),
            200..230 => u32::from(self.u16()),
            230..245 => 0,
            245.. => self.u32(),
        }
    }
}
