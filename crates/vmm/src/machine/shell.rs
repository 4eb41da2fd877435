//! A machine without a guest: everything that takes KVM milliseconds to make.

use super::MachineError;
use crate::kvm::{Host, Vcpu, Vm};
use crate::memory::Ram;
use crate::snapshot::Shape;

/// VM, vCPUs, interrupt controllers and a registered memory slot over reserved
/// addresses. Setting up memory slots and timers waits for grace periods of the
/// host kernel, about 8 ms in all, so this is done before it is needed.
#[derive(Debug)]
pub struct Shell {
    pub(super) vcpus: Vec<Vcpu>,
    pub(super) vm: Vm,
    // After `vm`, which has its addresses.
    pub(super) ram: Ram,
    pub(super) shape: Shape,
}

impl Shell {
    /// Builds a shell for machines of this shape.
    ///
    /// # Errors
    /// [`MachineError::Kvm`], [`MachineError::Ram`].
    pub fn new(host: &Host, shape: Shape) -> Result<Self, MachineError> {
        let ram = Ram::reserve(shape.memory.0)?;
        let vm = Vm::new(host)?;
        // SAFETY: a shell, and the machine made of it, drop `ram` after `vm`.
        unsafe { vm.set_memory(&ram)? };
        let vcpus = (0..shape.cpus)
            .map(|index| Vcpu::new(host, &vm, index, shape.cpus))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            vcpus,
            vm,
            ram,
            shape,
        })
    }
}
