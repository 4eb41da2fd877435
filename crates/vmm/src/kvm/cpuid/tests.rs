//! What guests are told must not change unnoticed: the tables in `goldens` were made once.
//! A line is a leaf: function, index, flags, EAX, EBX, ECX, EDX, all in hexadecimal.

use super::*;
use kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX;

const SECOND_OF_FOUR: GuestCpu = GuestCpu {
    index: 1,
    count: 4,
    tsc_deadline: true,
    hypercalls: true,
};

fn leaf(line: &str) -> kvm_cpuid_entry2 {
    let numbers = line.split_whitespace();
    let numbers: Vec<_> = numbers
        .map(|number| u32::from_str_radix(number, 16).unwrap())
        .collect();
    let [function, index, flags, eax, ebx, ecx, edx] = numbers[..] else {
        panic!("not a leaf: {line}");
    };
    kvm_cpuid_entry2 {
        function,
        index,
        flags,
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    }
}

fn line(leaf: &kvm_cpuid_entry2) -> String {
    let kvm_cpuid_entry2 {
        function,
        index,
        flags,
        eax,
        ebx,
        ecx,
        edx,
        ..
    } = leaf;
    format!("{function:08x} {index:02x} {flags} {eax:08x} {ebx:08x} {ecx:08x} {edx:08x}\n")
}

fn told(supported: &[kvm_cpuid_entry2], cpu: GuestCpu) -> String {
    of_guest(supported, cpu).iter().map(line).collect()
}

fn assert_golden(found: &str, golden: &str) {
    assert!(found == golden, "guests are told something else:\n{found}");
}

/// A processor and a KVM that have everything.
fn everything() -> Vec<kvm_cpuid_entry2> {
    let functions = (0..0x40).chain(0x4000_0000..0x4000_0020);
    let functions = functions
        .chain(0x8000_0000..0x8000_0040)
        .chain(0xc000_0000..0xc000_0005);
    let leaves = functions.flat_map(|function| {
        let indices = match function {
            4 | 7 | 0xb | 0xf..=0x12 | 0x14 | 0x17..=0x20 | 0x24 | 0x8000_001d => 0..4,
            XSAVE => 0..32,
            _ => 0..1,
        };
        indices.map(move |index| (function, index))
    });
    leaves
        .map(|(function, index)| kvm_cpuid_entry2 {
            function,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        })
        .collect()
}

#[test]
fn of_a_processor_that_has_everything_a_guest_sees_the_allow_list() {
    let found = told(&everything(), SECOND_OF_FOUR);
    assert_golden(&found, include_str!("goldens/everything.guest"));
}

#[test]
fn what_guests_are_told_on_a_pvm_host_is_as_it_was() {
    let supported: Vec<_> = include_str!("goldens/amd_pvm.supported")
        .lines()
        .map(leaf)
        .collect();
    let cpu = GuestCpu {
        tsc_deadline: false,
        hypercalls: false,
        ..SECOND_OF_FOUR
    };
    let found = told(&supported, cpu);
    assert_golden(&found, include_str!("goldens/amd_pvm.guest"));
}

#[test]
fn no_guest_sees_nested_virtualization_counters_or_transactions_and_each_sees_which_cpu_it_is() {
    let leaves = of_guest(&everything(), SECOND_OF_FOUR);
    let find = |function, index| {
        let mut found = leaves.iter();
        found.find(|leaf| (leaf.function, leaf.index) == (function, index))
    };
    let features = find(1, 0).unwrap();
    assert_eq!(features.ecx & (1 << 5), 0, "VMX");
    assert_eq!(features.ecx & (1 << 15), 0, "PDCM");
    assert_ne!(features.ecx & (1 << 21), 0, "x2APIC");
    assert_ne!(features.ecx & (1 << 24), 0, "TSC deadline");
    assert_eq!(features.ebx >> 16, 0x0104);
    let more = find(7, 0).unwrap();
    assert_eq!(more.ebx & (1 << 4 | 1 << 11), 0, "HLE, RTM");
    assert_eq!(more.ebx & (1 << 2 | 1 << 14 | 1 << 25), 0, "SGX, MPX, PT");
    assert_eq!(find(0x8000_0001, 0).unwrap().ecx & (1 << 2), 0, "SVM");
    for absent in [0xa, 0x12, 0x14, 0x1d, 0x8000_000a, 0x8000_001f, 0xc000_0001] {
        assert!(find(absent, 0).is_none(), "leaf {absent:#x}");
    }
    assert_eq!(find(0xb, 0).unwrap().edx, 1);
    assert_eq!(find(0x8000_001e, 0).unwrap().eax, 1);
}

#[test]
fn the_space_for_registers_ends_with_the_last_that_a_guest_may_have() {
    let mut supported = vec![leaf("d 0 1 602e7 2b00 2b00 0")];
    // AVX, the AVX-512 registers, PKRU, and AMX's tiles, far behind.
    supported.extend(
        [
            "d 2 1 100 240 0 0",
            "d 5 1 40 440 0 0",
            "d 6 1 200 480 0 0",
            "d 7 1 400 680 0 0",
            "d 9 1 8 a80 0 0",
            "d 12 1 2000 b00 6 0",
        ]
        .map(leaf),
    );
    let leaves = of_guest(&supported, SECOND_OF_FOUR);
    assert_eq!((leaves[0].eax, leaves[0].ecx), (0x2e7, 0xa88));
    assert_eq!(leaves.len(), 6);
}
