//! The configuration space (5.2.4).

use super::clusters::CLUSTER;
use super::disk::{Disk, SECTOR};
use super::{DISCARD_SECTORS_MAX, SEG_MAX, SIZE_MAX, ZERO_SECTORS_MAX};
use zerocopy::{FromZeros, Immutable, IntoBytes};

/// `struct virtio_blk_config` as far as secure erase, little-endian, as our hosts are. What
/// stands for a feature that is not offered is 0.
#[derive(Debug, FromZeros, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Config {
    capacity: u64,
    size_max: u32,
    seg_max: u32,
    geometry: [u8; 4],
    blk_size: u32,
    physical_block_exp: u8,
    alignment_offset: u8,
    min_io_size: u16,
    opt_io_size: u32,
    wce: u8,
    unused: u8,
    num_queues: u16,
    max_discard_sectors: u32,
    max_discard_seg: u32,
    discard_sector_alignment: u32,
    max_write_zeroes_sectors: u32,
    max_write_zeroes_seg: u32,
    write_zeroes_may_unmap: u8,
    unused1: [u8; 3],
    max_secure_erase_sectors: u32,
    max_secure_erase_seg: u32,
    secure_erase_sector_alignment: u32,
}

impl Config {
    pub(super) fn of(disk: &Disk) -> Self {
        const SECTORS_PER_CLUSTER: u32 = (CLUSTER / SECTOR) as u32;
        Self {
            capacity: disk.len() / SECTOR,
            size_max: SIZE_MAX,
            seg_max: SEG_MAX,
            blk_size: SECTOR as u32,
            physical_block_exp: SECTORS_PER_CLUSTER.ilog2() as u8,
            min_io_size: SECTORS_PER_CLUSTER as u16,
            opt_io_size: SIZE_MAX / SECTOR as u32,
            max_discard_sectors: DISCARD_SECTORS_MAX,
            max_discard_seg: 1,
            discard_sector_alignment: SECTORS_PER_CLUSTER,
            max_write_zeroes_sectors: ZERO_SECTORS_MAX,
            max_write_zeroes_seg: 1,
            write_zeroes_may_unmap: 1,
            ..Self::new_zeroed()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;
    use virtio_bindings::virtio_blk::virtio_blk_config;

    #[test]
    fn fields_are_where_linux_has_them() {
        macro_rules! same {
            ($($field:ident)*) => {$(
                assert_eq!(
                    offset_of!(Config, $field),
                    offset_of!(virtio_blk_config, $field),
                    stringify!($field)
                );
            )*};
        }
        same!(
            capacity size_max seg_max geometry blk_size physical_block_exp alignment_offset
            min_io_size opt_io_size wce num_queues max_discard_sectors max_discard_seg
            discard_sector_alignment max_write_zeroes_sectors max_write_zeroes_seg
            write_zeroes_may_unmap max_secure_erase_sectors max_secure_erase_seg
            secure_erase_sector_alignment
        );
        assert_eq!(size_of::<Config>(), offset_of!(virtio_blk_config, zoned));
    }
}
