//! Areas of XSAVE as a guest has them in its memory: which components they have, and what is not
//! taken from a guest unchecked.

use super::{HostKind, KvmError, Vcpu};
use crate::memory::GuestMemoryMmap;
use hyperfork_state::HostFingerprint;
use kvm_bindings::kvm_xsave;
use std::ops::Range;
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};
use zerocopy::IntoBytes;

/// The components of a guest's areas: x87, SSE, AVX, AVX-512 (three).
const COMPONENTS: u64 = 0b1110_0111;
/// Of these, the ones in the area's first 512 bytes, which FXSAVE has, too.
const LEGACY: u64 = 0b11;

/// CPUID's leaf of XSAVE.
const LEAF: u32 = 0xd;

/// Where things are in an area (Intel SDM vol. 1, 13.4).
const MXCSR: Range<usize> = 24..28;
/// Unused by the processor.
const OF_SOFTWARE: Range<usize> = 464..512;
const XSTATE_BV: Range<usize> = 512..520;
/// XCOMP_BV, which is 0 in the standard format, and reserved bytes.
const REST_OF_HEADER: Range<usize> = 520..576;

/// MXCSR after a reset.
const INITIAL_MXCSR: u32 = 0x1f80;

/// Which components a guest's areas have, and where.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct XstateLayout {
    components: u64,
    size: usize,
    /// Those beyond SSE: their bits, and where they are.
    extended: Vec<(u64, Range<usize>)>,
}

impl XstateLayout {
    /// The layout for guests of this host whose kernels are emulated. Elsewhere kernels have
    /// XSAVE, and this has no components.
    pub fn for_guests_of(host: &HostFingerprint) -> Self {
        let answer = |index| {
            let mut leaves = host.cpuid.iter();
            leaves.find(|leaf| (leaf.function, leaf.index) == (LEAF, index))
        };
        let (HostKind::Pvm, Some(leaf)) = (host.kind, answer(0)) else {
            return Self::default();
        };
        let mut layout = Self {
            components: u64::from(leaf.answer[0]) & LEGACY,
            size: REST_OF_HEADER.end,
            extended: Vec::new(),
        };
        for index in 2..u64::BITS {
            let bit = 1 << index;
            if COMPONENTS & u64::from(leaf.answer[0]) & bit == 0 {
                continue;
            }
            let [size, offset, ..] = answer(index).map_or([0; 4], |leaf| leaf.answer);
            let end = offset.saturating_add(size) as usize;
            // What does not fit cannot be asked of KVM.
            if end <= size_of::<kvm_xsave>() && size > 0 {
                layout.components |= bit;
                layout.size = layout.size.max(end);
                layout.extended.push((bit, offset as usize..end));
            }
        }
        layout
    }

    /// The components' bits, as in XCR0.
    pub fn components(&self) -> u32 {
        self.components as u32
    }

    /// What the guest gets of KVM's answer: nothing but the components.
    fn shown<'a>(&self, xsave: &'a mut kvm_xsave) -> &'a [u8] {
        let area = &mut xsave.region.as_mut_bytes()[..self.size];
        let of_kvm = xstate_bv(area);
        let mut used = self.components & LEGACY;
        for (bit, place) in &self.extended {
            if of_kvm & bit == 0 {
                area[place.clone()].fill(0);
            } else if area[place.clone()].iter().any(|&byte| byte != 0) {
                used |= bit;
            }
        }
        area[OF_SOFTWARE].fill(0);
        area[XSTATE_BV].copy_from_slice(&used.to_le_bytes());
        area[REST_OF_HEADER].fill(0);
        area
    }

    /// The guest's area as KVM takes it, but for MXCSR: which of its bits may be set depends on
    /// the processor. `None` if not all of the area is memory.
    pub(crate) fn image_in(
        &self,
        memory: &GuestMemoryMmap,
        area: GuestAddress,
    ) -> Option<kvm_xsave> {
        let mut xsave = kvm_xsave::default();
        let image = &mut xsave.region.as_mut_bytes()[..self.size];
        memory.read_slice(image, area).ok()?;
        let used = xstate_bv(image) & self.components;
        image[XSTATE_BV].copy_from_slice(&used.to_le_bytes());
        image[REST_OF_HEADER].fill(0);
        Some(xsave)
    }

    /// Writes the vCPU's registers into the guest's area, if all of it is memory.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn save(
        &self,
        vcpu: &Vcpu,
        memory: &GuestMemoryMmap,
        area: GuestAddress,
    ) -> Result<(), KvmError> {
        if memory.check_range(area, self.size, Permissions::Write) {
            let mut xsave = vcpu.xsave()?;
            // It cannot fail: the range was checked.
            let _ = memory.write_slice(self.shown(&mut xsave), area);
        }
        Ok(())
    }

    /// Sets the vCPU's registers from the guest's area, if all of it is memory.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn load(
        &self,
        vcpu: &Vcpu,
        memory: &GuestMemoryMmap,
        area: GuestAddress,
    ) -> Result<(), KvmError> {
        let Some(mut xsave) = self.image_in(memory, area) else {
            return Ok(());
        };
        vcpu.set_xsave(&xsave).or_else(|_| {
            xsave.region.as_mut_bytes()[MXCSR].copy_from_slice(&INITIAL_MXCSR.to_le_bytes());
            vcpu.set_xsave(&xsave)
        })
    }
}

fn xstate_bv(area: &[u8]) -> u64 {
    u64::from_le_bytes(area[XSTATE_BV].try_into().expect("8 bytes"))
}

#[cfg(test)]
mod tests;
