//! Reads and sets a vCPU's TSC offset (KVM devices/vcpu.rst, 4.1), which the KVM library does not
//! wrap.

use super::KvmError;
use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, kvm_device_attr};
use kvm_ioctls::VcpuFd;
use std::io;
use std::os::fd::AsRawFd;

#[derive(Clone, Copy)]
enum Verb {
    Set = 0xe1,
    Get = 0xe2,
    Has = 0xe3,
}

/// Whether KVM has this attribute. (PVM has it, but it has no effect there.)
pub(super) fn has_offset(vcpu: &VcpuFd) -> bool {
    attribute(vcpu, Verb::Has, &mut 0).is_ok()
}

/// Guest TSC less host TSC.
pub(super) fn offset(vcpu: &VcpuFd) -> Result<u64, KvmError> {
    let mut offset = 0;
    attribute(vcpu, Verb::Get, &mut offset).map_err(|source| KvmError::Call {
        call: "KVM_GET_DEVICE_ATTR(KVM_VCPU_TSC_OFFSET)",
        source,
    })?;
    Ok(offset)
}

/// Sets it.
pub(super) fn set_offset(vcpu: &VcpuFd, mut offset: u64) -> Result<(), KvmError> {
    attribute(vcpu, Verb::Set, &mut offset).map_err(|source| KvmError::Call {
        call: "KVM_SET_DEVICE_ATTR(KVM_VCPU_TSC_OFFSET)",
        source,
    })
}

fn attribute(vcpu: &VcpuFd, verb: Verb, value: &mut u64) -> io::Result<()> {
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: std::ptr::from_mut(value) as u64,
        flags: 0,
    };
    // _IOW(KVMIO, verb, struct kvm_device_attr), for all three.
    let request = 1 << 30
        | (size_of::<kvm_device_attr>() as libc::c_ulong) << 16
        | 0xae << 8
        | verb as libc::c_ulong;
    // SAFETY: the attribute and the u64 it points to, the size this one wants, live
    // across the call.
    match unsafe { libc::ioctl(vcpu.as_raw_fd(), request, &attribute) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
