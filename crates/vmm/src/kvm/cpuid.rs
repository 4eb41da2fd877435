//! The CPUID that a guest sees (Intel SDM vol. 2A, AMD APM vol. 3 appendix E, and Linux's
//! Documentation/virt/kvm/x86/cpuid.rst).
//!
//! It is filtered by an allow-list: a guest does not see what is not in it, however new the host's
//! kernel and processor are. The list has instructions for programs, what kernels need to run well,
//! and which processor bugs are mitigated. It does not have nested virtualization (VMX, SVM), whose
//! state a capture does not contain; performance counters and tracing; transactional memory, SGX,
//! MPX, AMX, CET, memory encryption; or anything by which a guest could hold up its host.
//!
//! On a PVM host guests see the processor's own leaves, whatever KVM is told.

use kvm_bindings::kvm_cpuid_entry2;

/// The vCPU and the machine that the CPUID is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct GuestCpu {
    pub(super) index: u8,
    pub(super) count: u8,
    /// Whether local APICs have the TSC-deadline mode. KVM never lists it, because it depends on
    /// the in-kernel local APIC (api.rst, KVM_GET_SUPPORTED_CPUID). It matters: without it a guest
    /// calibrates its APIC timer by counting ticks of the PIT. If the guest was preempted
    /// meanwhile, KVM delivers all missed ticks at once, and the guest's timers then fire many
    /// times too often; a slow host does nothing else after that.
    pub(super) tsc_deadline: bool,
    /// Whether hypercalls return. On a PVM host no hypercall of an emulated kernel ever returns, so
    /// a guest with more than two CPUs would hang at the first interrupt to several CPUs.
    pub(super) hypercalls: bool,
}

/// A processor's own leaves, and its extended ones.
const BASIC: std::ops::Range<u32> = 0..0x4000_0000;
const EXTENDED: std::ops::Range<u32> = 0x8000_0000..0xc000_0000;

const FEATURES: u32 = 1;
const MORE_FEATURES: u32 = 7;
const XSAVE: u32 = 0xd;
const KVM_FEATURES: u32 = 0x4000_0001;

/// The components of XCR0 that a guest may use: x87, SSE, AVX, AVX-512 (three), PKRU.
const XCR0: u32 = bits(&[0, 1, 2, 5, 6, 7, 9]);

/// The KVM features that use hypercalls: waking a CPU, flushing another CPU's TLB, interrupting
/// several at once, yielding to one.
const BY_HYPERCALL: u32 = bits(&[7, 9, 11, 13]);

const fn bits(numbers: &[u32]) -> u32 {
    let (mut all, mut at) = (0, 0);
    while at < numbers.len() {
        all |= 1 << numbers[at];
        at += 1;
    }
    all
}

const ALL: u32 = u32::MAX;

/// What a guest may see of a leaf, in EAX, EBX, ECX and EDX; `None` for a leaf that it may
/// not see at all.
fn allowed(function: u32, index: u32) -> Option<[u32; 4]> {
    Some(match (function, index) {
        // The highest leaf, the vendor; caches.
        (0 | 2 | 4, _) => [ALL; 4],
        (FEATURES, _) => [
            ALL,         // signature
            0x0000_ff00, // CLFLUSH's line; which CPU it is comes from us
            // SSE3 PCLMULQDQ SSSE3 FMA CX16 PCID SSE4.1 SSE4.2 x2APIC MOVBE POPCNT
            // TSC-deadline AES XSAVE OSXSAVE AVX F16C RDRAND hypervisor
            bits(&[
                0, 1, 9, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
            ]),
            // FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36
            // CLFLUSH MMX FXSR SSE SSE2 SS HTT
            bits(&[
                0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26, 27,
                28,
            ]),
        ],
        // That the APIC's timer never stops (ARAT).
        (6, _) => [bits(&[2]), 0, 0, 0],
        (MORE_FEATURES, 0) => [
            ALL, // the highest subleaf
            // FSGSBASE TSC_ADJUST BMI1 AVX2 FDP_EXCPTN SMEP BMI2 ERMS INVPCID ZERO_FCS_FDS
            // AVX512F DQ RDSEED ADX SMAP IFMA CLFLUSHOPT CLWB CD SHA BW VL
            bits(&[
                0, 1, 3, 5, 6, 7, 8, 9, 10, 13, 16, 17, 18, 19, 20, 21, 23, 24, 28, 29, 30, 31,
            ]),
            // AVX512_VBMI UMIP PKU OSPKE VBMI2 GFNI VAES VPCLMULQDQ VNNI BITALG VPOPCNTDQ
            // LA57 RDPID MOVDIRI MOVDIR64B
            bits(&[1, 2, 3, 4, 6, 8, 9, 10, 11, 12, 14, 16, 22, 27, 28]),
            // AVX512_4VNNIW 4FMAPS FSRM VP2INTERSECT MD_CLEAR SERIALIZE AVX512_FP16 SPEC_CTRL
            // STIBP FLUSH_L1D ARCH_CAPABILITIES SSBD
            bits(&[2, 3, 4, 8, 10, 14, 23, 26, 27, 28, 29, 31]),
        ],
        (MORE_FEATURES, 1) => [
            // SHA512 SM3 SM4 AVX_VNNI AVX512_BF16 CMPCCXADD FZRM FSRS FSRC AVX_IFMA
            bits(&[0, 1, 2, 4, 5, 7, 10, 11, 12, 23]),
            0,
            0,
            // AVX_VNNI_INT8 AVX_NE_CONVERT AVX_VNNI_INT16 PREFETCHI
            bits(&[4, 5, 10, 14]),
        ],
        // Speculation: PSFD IPRED RRSBA DDPD_U BHI MCDT_NO.
        (MORE_FEATURES, 2) => [0, 0, 0, bits(&[0, 1, 2, 3, 4, 5])],
        // Topology.
        (0xb | 0x1f, _) => [ALL; 4],
        (XSAVE, 0) => [XCR0, ALL, ALL, 0],
        // XSAVEOPT XSAVEC XGETBV(1) XSAVES, and of what a supervisor may save, nothing.
        (XSAVE, 1) => [bits(&[0, 1, 2, 3]), ALL, 0, 0],
        (XSAVE, 2..32) if XCR0 & 1 << index != 0 => [ALL; 4],
        // KVM's signature, and clock, NOP_IO_DELAY, the newer clock, asynchronous page faults,
        // stolen time, EOI, waking, TLB flushes, several interrupts at once, polling, yielding,
        // page-fault interrupts, that the clock is stable.
        (0x4000_0000, _) => [ALL; 4],
        (KVM_FEATURES, _) => [bits(&[0, 1, 3, 4, 5, 6, 7, 9, 11, 12, 13, 14, 24]), 0, 0, 0],
        (0x8000_0000, _) => [ALL; 4],
        (0x8000_0001, _) => [
            ALL,
            ALL,
            // LAHF CMP_LEGACY CR8_LEGACY LZCNT SSE4A MISALIGNSSE PREFETCHW OSVW XOP FMA4 TBM
            // TOPOEXT
            bits(&[0, 1, 4, 5, 6, 7, 8, 9, 11, 16, 21, 22]),
            // As in leaf 1, and SYSCALL NX MMXEXT FFXSR 1-GIB-PAGES RDTSCP LM 3DNOWEXT 3DNOW
            bits(&[
                0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 20, 22, 23, 24, 25, 26,
                27, 29, 30, 31,
            ]),
        ],
        // The name, caches.
        (0x8000_0002..=0x8000_0006, _) => [ALL; 4],
        // That the TSC never changes its pace.
        (0x8000_0007, _) => [0, 0, 0, bits(&[8])],
        (0x8000_0008, _) => [
            ALL, // widths of addresses
            // CLZERO XSAVEERPTR WBNOINVD IBPB IBRS STIBP IBRS_ALWAYS STIBP_ALWAYS
            // IBRS_PREFERRED IBRS_SAME_MODE SSBD VIRT_SSBD SSB_NO PSFD BTC_NO IBPB_RET
            bits(&[0, 2, 9, 12, 14, 15, 16, 17, 18, 19, 24, 25, 26, 28, 29, 30]),
            ALL, // how many CPUs
            0,
        ],
        // TLBs, pace of SSE, caches, which CPU it is.
        (0x8000_0019 | 0x8000_001a | 0x8000_001d | 0x8000_001e, _) => [ALL; 4],
        (0x8000_0021, _) => [
            // NO_NESTED_DATA_BP LFENCE_RDTSC VERW_CLEAR NULL_SEL_CLR_BASE AUTOIBRS
            // NO_SMM_CTL_MSR FSRS FSRC SBPB IBPB_BRTYPE SRSO_NO SRSO_USER_KERNEL_NO
            bits(&[0, 2, 5, 6, 8, 9, 10, 11, 27, 28, 29, 30]),
            0,
            bits(&[1, 2]), // TSA_SQ_NO TSA_L1_NO
            0,
        ],
        _ => return None,
    })
}

/// The CPUID of a vCPU: the allowed part of what KVM supports.
pub(super) fn of_guest(supported: &[kvm_cpuid_entry2], cpu: GuestCpu) -> Vec<kvm_cpuid_entry2> {
    let allowed = supported.iter().filter_map(|entry| {
        let [eax, ebx, ecx, edx] = allowed(entry.function, entry.index)?;
        Some(kvm_cpuid_entry2 {
            eax: entry.eax & eax,
            ebx: entry.ebx & ebx,
            ecx: entry.ecx & ecx,
            edx: entry.edx & edx,
            ..*entry
        })
    });
    let mut leaves: Vec<_> = allowed.collect();
    let highest = |among: &std::ops::Range<u32>| {
        let functions = leaves.iter().map(|leaf| leaf.function);
        functions.filter(|it| among.contains(it)).max().unwrap_or(0)
    };
    let (basic, extended) = (highest(&BASIC), highest(&EXTENDED));
    let subleaves = leaves.iter().filter(|leaf| leaf.function == MORE_FEATURES);
    let subleaf = subleaves.map(|leaf| leaf.index).max().unwrap_or(0);
    let xsave_size = xsave_size(&leaves);
    for leaf in &mut leaves {
        match (leaf.function, leaf.index) {
            (0, _) => leaf.eax = basic,
            (0x8000_0000, _) => leaf.eax = extended,
            (MORE_FEATURES, 0) => leaf.eax = subleaf,
            (XSAVE, 0) => leaf.ecx = xsave_size,
            // Initial APIC ID and CPUs per package.
            (FEATURES, _) => {
                leaf.ebx |= u32::from(cpu.index) << 24 | u32::from(cpu.count) << 16;
                leaf.ecx |= 1 << 31; // there is a hypervisor
                leaf.ecx |= u32::from(cpu.tsc_deadline) << 24;
            }
            // Extended topology: x2APIC ID.
            (0xb | 0x1f, _) => leaf.edx = u32::from(cpu.index),
            // Extended APIC ID.
            (0x8000_001e, _) => leaf.eax = u32::from(cpu.index),
            (KVM_FEATURES, _) if !cpu.hypercalls => leaf.eax &= !BY_HYPERCALL,
            _ => {}
        }
    }
    leaves
}

/// Bytes that all of a guest's registers take in the standard form of XSAVE: up to the end of
/// the last.
fn xsave_size(leaves: &[kvm_cpuid_entry2]) -> u32 {
    const LEGACY_AND_HEADER: u32 = 512 + 64;
    let registers = leaves.iter();
    let registers = registers.filter(|leaf| leaf.function == XSAVE && leaf.index >= 2);
    let ends = registers.map(|leaf| leaf.ebx.saturating_add(leaf.eax));
    ends.max().unwrap_or(0).max(LEGACY_AND_HEADER)
}

#[cfg(test)]
mod tests;
