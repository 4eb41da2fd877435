//! The guest's physical address space: where RAM and devices are.

use std::ops::Range;

/// First address of the hole in RAM below 4 GiB, for devices.
pub const HOLE_START: u64 = 3 << 30;
/// First address above the hole.
pub const HOLE_END: u64 = 4 << 30;

/// First virtio-mmio device; the following ones are [`VIRTIO_STRIDE`] apart.
pub const VIRTIO_BASE: u64 = 0xd000_0000;
/// Bytes of address space per virtio-mmio device.
pub const VIRTIO_STRIDE: u64 = 0x1000;
/// Offset of QueueNotify in a virtio-mmio device (virtio 1.2, 4.2.2).
pub const VIRTIO_QUEUE_NOTIFY: u64 = 0x50;
/// Interrupt of the first virtio-mmio device; each has the next one.
pub const VIRTIO_FIRST_IRQ: u32 = 10;
/// Most virtio devices: the IOAPIC has 24 pins.
pub const VIRTIO_MAX: usize = 24 - VIRTIO_FIRST_IRQ as usize;

/// The interrupt that tells a guest that it has been cloned or resumed: queued
/// before its first instruction.
pub const DOORBELL_IRQ: u32 = 5;

/// Physical address of the IOAPIC.
pub const IOAPIC: u64 = 0xfec0_0000;
/// Physical address of each CPU's local APIC.
pub const LAPIC: u64 = 0xfee0_0000;
/// Three pages that KVM on Intel needs below 4 GiB (`KVM_SET_TSS_ADDR`).
pub const KVM_TSS: u64 = 0xfffb_d000;

/// A piece of guest RAM: guest physical addresses, and the offset in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RamRegion {
    /// Guest physical address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Its offset in the RAM image.
    pub offset: u64,
}

/// Guest RAM of `size` bytes: one region, or two around the hole.
pub fn ram_regions(size: u64) -> Vec<RamRegion> {
    let low = size.min(HOLE_START);
    let mut regions = vec![RamRegion {
        start: 0,
        len: low,
        offset: 0,
    }];
    if size > low {
        regions.push(RamRegion {
            start: HOLE_END,
            len: size - low,
            offset: low,
        });
    }
    regions
}

/// Addresses and interrupt of virtio device number `slot`.
pub fn virtio_slot(slot: usize) -> (Range<u64>, u32) {
    let base = VIRTIO_BASE + slot as u64 * VIRTIO_STRIDE;
    (base..base + VIRTIO_STRIDE, VIRTIO_FIRST_IRQ + slot as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_beyond_the_hole_continues_above_4_gib() {
        assert_eq!(ram_regions(64 << 20).len(), 1);
        let regions = ram_regions(5 << 30);
        assert_eq!(
            regions[1],
            RamRegion {
                start: HOLE_END,
                len: 2 << 30,
                offset: HOLE_START
            }
        );
        assert_eq!(
            regions.iter().map(|region| region.len).sum::<u64>(),
            5 << 30
        );
    }

    #[test]
    fn devices_stay_inside_the_hole() {
        let (range, irq) = virtio_slot(VIRTIO_MAX - 1);
        assert!(range.start >= HOLE_START && range.end <= IOAPIC);
        assert_eq!(irq, 23);
    }
}
