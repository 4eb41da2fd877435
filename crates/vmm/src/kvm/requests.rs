//! The numbers of the vCPU ioctls (KVM api.rst), for the seccomp filter of vCPU threads. The KVM
//! library does not export them.

use crate::sys::seccomp::Request;
use kvm_bindings::{
    kvm_debugregs, kvm_device_attr, kvm_lapic_state, kvm_mp_state, kvm_msrs, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};

/// The ioctls that [`Vcpu`](super::Vcpu) makes after it is made.
pub const OF_A_VCPU: [Request; 21] = [
    ("KVM_RUN", request::<()>(NONE, 0x80)),
    ("KVM_GET_REGS", request::<kvm_regs>(READ, 0x81)),
    ("KVM_SET_REGS", request::<kvm_regs>(WRITE, 0x82)),
    ("KVM_GET_SREGS", request::<kvm_sregs>(READ, 0x83)),
    ("KVM_SET_SREGS", request::<kvm_sregs>(WRITE, 0x84)),
    ("KVM_GET_MSRS", request::<kvm_msrs>(READ | WRITE, 0x88)),
    ("KVM_SET_MSRS", request::<kvm_msrs>(WRITE, 0x89)),
    ("KVM_GET_LAPIC", request::<kvm_lapic_state>(READ, 0x8e)),
    ("KVM_SET_LAPIC", request::<kvm_lapic_state>(WRITE, 0x8f)),
    ("KVM_GET_MP_STATE", request::<kvm_mp_state>(READ, 0x98)),
    ("KVM_SET_MP_STATE", request::<kvm_mp_state>(WRITE, 0x99)),
    (
        "KVM_GET_VCPU_EVENTS",
        request::<kvm_vcpu_events>(READ, 0x9f),
    ),
    (
        "KVM_SET_VCPU_EVENTS",
        request::<kvm_vcpu_events>(WRITE, 0xa0),
    ),
    ("KVM_GET_DEBUGREGS", request::<kvm_debugregs>(READ, 0xa1)),
    ("KVM_SET_DEBUGREGS", request::<kvm_debugregs>(WRITE, 0xa2)),
    ("KVM_GET_XSAVE", request::<kvm_xsave>(READ, 0xa4)),
    ("KVM_SET_XSAVE", request::<kvm_xsave>(WRITE, 0xa5)),
    ("KVM_GET_XCRS", request::<kvm_xcrs>(READ, 0xa6)),
    ("KVM_SET_XCRS", request::<kvm_xcrs>(WRITE, 0xa7)),
    (
        "KVM_SET_DEVICE_ATTR",
        request::<kvm_device_attr>(WRITE, 0xe1),
    ),
    (
        "KVM_GET_DEVICE_ATTR",
        request::<kvm_device_attr>(WRITE, 0xe2),
    ),
];

/// Which way data goes (asm-generic/ioctl.h).
const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;

/// `_IOC` of asm-generic/ioctl.h, for what has KVM's magic number.
const fn request<T>(way: u32, number: u32) -> u32 {
    const KVM: u32 = 0xae;
    way << 30 | (size_of::<T>() as u32) << 16 | KVM << 8 | number
}
