//! The port of the vector registers ([`hyperfork_api::xstate`]). Reading it needs nothing of the
//! vCPU; what is written is served by the vCPU's thread, which alone can have the vCPU.

use crate::bus::SharedBusDevice;
use crate::kvm::{KvmError, Vcpu, XstateLayout};
use crate::memory::GuestMemoryMmap;
use hyperfork_api::xstate::{AREA_ALIGNMENT, LOAD_PORT, SAVE_PORT};
use std::sync::Arc;
use vm_memory::GuestAddress;

/// The port, which has no state of its own: each request is complete before the guest goes on.
pub(in crate::machine) struct XstatePort {
    layout: XstateLayout,
    memory: Arc<GuestMemoryMmap>,
}

/// What the guest's kernel wants done with an area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::machine) enum Request {
    Save(GuestAddress),
    Load(GuestAddress),
}

impl XstatePort {
    pub(in crate::machine) fn new(layout: XstateLayout, memory: Arc<GuestMemoryMmap>) -> Self {
        Self { layout, memory }
    }

    /// What is requested by a write to a port; `None` if it is for another one.
    pub(in crate::machine) fn request(&self, port: u16, data: &[u8]) -> Option<Request> {
        let request = match port {
            SAVE_PORT => Request::Save,
            LOAD_PORT => Request::Load,
            _ => return None,
        };
        let word = u32::from_le_bytes(data.try_into().ok()?);
        let is_there = self.layout.components() != 0;
        is_there.then(|| request(GuestAddress(u64::from(word) * AREA_ALIGNMENT)))
    }

    /// # Errors
    /// When KVM fails: then the guest's registers are lost.
    pub(super) fn serve(&self, request: Request, vcpu: &Vcpu) -> Result<(), KvmError> {
        match request {
            Request::Save(area) => self.layout.save(vcpu, &self.memory, area),
            Request::Load(area) => self.layout.load(vcpu, &self.memory, area),
        }
    }
}

impl SharedBusDevice for XstatePort {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let components = self.layout.components().to_le_bytes();
        for (place, byte) in data.iter_mut().enumerate() {
            let known = components.get(offset as usize + place);
            *byte = known.copied().unwrap_or(0);
        }
    }

    /// Not a request.
    fn write(&self, _: u64, _: &[u8]) {}
}
