//! Guest memory for devices and loaders (the traits of `vm-memory`). It keeps its host addresses
//! reserved, so it may be used even after its [`Ram`](super::Ram) is dropped.

use super::layout::ram_regions;
use crate::sys::mapping::AddressRange;
use std::sync::Arc;
use vm_memory::guest_memory::Result;
use vm_memory::{
    GuestAddress, GuestMemoryError, GuestMemoryRegion, GuestMemoryRegionBytes,
    GuestRegionCollection, GuestUsize, MemoryRegionAddress, VolatileSlice,
};

/// All memory of a guest.
pub type GuestMemoryMmap = GuestRegionCollection<GuestRegion>;

/// A contiguous range of guest physical memory.
#[derive(Debug)]
pub struct GuestRegion {
    start: GuestAddress,
    /// Its offset in `range`.
    offset: usize,
    len: usize,
    range: Arc<AddressRange>,
}

impl GuestRegion {
    /// The `len` bytes at `offset` in `range`.
    ///
    /// # Panics
    /// When `len` is 0, or the range is shorter.
    fn new(start: GuestAddress, offset: usize, len: usize, range: &Arc<AddressRange>) -> Self {
        let end = offset.checked_add(len).expect("an offset inside a mapping");
        assert!(0 < len && end <= range.len());
        let range = range.clone();
        Self {
            start,
            offset,
            len,
            range,
        }
    }
}

impl GuestMemoryRegion for GuestRegion {
    type B = ();

    fn len(&self) -> GuestUsize {
        self.len as GuestUsize
    }

    fn start_addr(&self) -> GuestAddress {
        self.start
    }

    fn bitmap(&self) {}

    fn get_host_address(&self, address: MemoryRegionAddress) -> Result<*mut u8> {
        let slice = self.get_slice(address, 1)?;
        Ok(slice.ptr_guard_mut().as_ptr())
    }

    fn get_slice(&self, at: MemoryRegionAddress, count: usize) -> Result<VolatileSlice<'_>> {
        let at = usize::try_from(at.0).map_err(|_| GuestMemoryError::InvalidBackendAddress)?;
        match at.checked_add(count) {
            Some(end) if end <= self.len => Ok(self.range.volatile(self.offset + at, count)),
            _ => Err(GuestMemoryError::InvalidBackendAddress),
        }
    }
}

impl GuestMemoryRegionBytes for GuestRegion {}

/// Guest memory of `size` bytes in `range`.
///
/// # Panics
/// When `size` is 0, or the range is shorter.
pub(super) fn guest_memory(range: &Arc<AddressRange>, size: u64) -> GuestMemoryMmap {
    let regions = ram_regions(size).into_iter().map(|region| {
        let start = GuestAddress(region.start);
        GuestRegion::new(start, region.offset as usize, region.len as usize, range)
    });
    GuestMemoryMmap::from_regions(regions.collect())
        .expect("the layout's regions are there, ascending and apart")
}

/// Zeroed guest memory at any addresses, for tests.
///
/// # Panics
/// When the places overlap, or the host is out of memory.
#[cfg(any(test, feature = "fuzzing"))]
pub fn zeroed(places: &[(GuestAddress, usize)]) -> GuestMemoryMmap {
    let len = places.iter().map(|&(_, len)| len).sum();
    let mut mapping = crate::sys::mapping::Mapping::reserve(len).expect("addresses");
    let file = crate::sys::memfd::create("test", len as u64).expect("memory");
    mapping.place_shared(file).expect("memory");
    let mut offset = 0;
    let regions = places.iter().map(|&(start, len)| {
        let region = GuestRegion::new(start, offset, len, mapping.range());
        offset += len;
        region
    });
    GuestMemoryMmap::from_regions(regions.collect()).expect("places that are apart")
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestMemoryBackend};

    #[test]
    fn nothing_is_accessed_beyond_a_region() {
        let memory = zeroed(&[
            (GuestAddress(0x1000), 0x1000),
            (GuestAddress(0x4000), 0x2000),
        ]);
        memory.write_obj(7_u64, GuestAddress(0x5ff8)).unwrap();
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0x5ff8)).unwrap(), 7);
        for address in [0xfff, 0x1ff9, 0x2000, 0x3fff, 0x5ff9, 0x6000, u64::MAX] {
            assert!(memory.read_obj::<u64>(GuestAddress(address)).is_err());
            assert!(memory.write_obj(1_u64, GuestAddress(address)).is_err());
        }
        let region = memory.find_region(GuestAddress(0x4000)).unwrap();
        for (at, count) in [(0, 0x2001), (0x2000, 1), (1, usize::MAX), (u64::MAX, 1)] {
            assert!(region.get_slice(MemoryRegionAddress(at), count).is_err());
        }
        let host = |at| region.get_host_address(MemoryRegionAddress(at));
        assert_eq!(
            host(0x1fff).unwrap().addr() - host(0).unwrap().addr(),
            0x1fff
        );
        assert!(host(0x2000).is_err());
    }
}
