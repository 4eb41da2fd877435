//! Tests of areas: what a guest sees, and what is taken from it. Some need `/dev/kvm`.

use super::*;
use crate::kvm::{Host, Vm};
use crate::memory::Ram;
use hyperfork_state::{BootId, CpuidLeaf};

/// Of a processor of AMD with AVX-512.
const AMD: [(u32, [u32; 4]); 6] = [
    (0, [0x2e7, 0x988, 0x988, 0]),
    (2, [0x100, 0x240, 0, 0]),
    (5, [0x40, 0x340, 0, 0]),
    (6, [0x200, 0x380, 0, 0]),
    (7, [0x400, 0x580, 0, 0]),
    (9, [0x8, 0x980, 0, 0]),
];

fn host(kind: HostKind, leaves: &[(u32, [u32; 4])]) -> HostFingerprint {
    let leaves = leaves.iter().map(|&(index, answer)| CpuidLeaf {
        function: LEAF,
        index,
        answer,
    });
    HostFingerprint {
        kind,
        cpuid: leaves.collect(),
        xcr0: 0x2e7,
        tsc_khz: 0,
        boot: BootId(String::new()),
    }
}

fn layout() -> XstateLayout {
    XstateLayout::for_guests_of(&host(HostKind::Pvm, &AMD))
}

#[test]
fn areas_end_with_the_last_vector_register_and_are_there_where_kernels_are_emulated() {
    let layout = layout();
    assert_eq!((layout.components(), layout.size), (0xe7, 0x980));
    let without_avx512 = host(HostKind::Pvm, &[(0, [7, 0, 0, 0]), AMD[1]]);
    let layout = XstateLayout::for_guests_of(&without_avx512);
    assert_eq!((layout.components(), layout.size), (7, 0x340));
    for without in [
        host(HostKind::Hardware, &AMD),
        host(HostKind::Pvm, &AMD[1..]),
    ] {
        assert_eq!(XstateLayout::for_guests_of(&without).components(), 0);
    }
}

#[test]
fn a_component_that_does_not_fit_into_what_kvm_gives_is_left_out() {
    let far = (7, [0x400, 0xf00, 0, 0]);
    let nowhere = (6, [u32::MAX, u32::MAX, 0, 0]);
    let host = host(HostKind::Pvm, &[AMD[0], AMD[1], nowhere, far]);
    let layout = XstateLayout::for_guests_of(&host);
    assert_eq!((layout.components(), layout.size), (7, 0x340));
}

#[test]
fn a_guest_is_shown_its_components_only_and_which_of_them_are_not_all_zeroes() {
    let mut xsave = kvm_xsave::default();
    let bytes = xsave.region.as_mut_bytes();
    bytes[..LEGACY_END].fill(1);
    bytes[0x240..0x980].fill(0);
    // The processor says that AVX, an opmask and PKRU are in use, the second with zeroes; and
    // there is something where ZMM registers would be.
    bytes[XSTATE_BV].copy_from_slice(&0x227u64.to_le_bytes());
    (bytes[0x241], bytes[0x400], bytes[0x980]) = (7, 9, 3);
    let layout = layout();
    let shown = layout.shown(&mut xsave).to_vec();
    assert_eq!(shown.len(), 0x980);
    assert_eq!(xstate_bv(&shown), 7);
    assert!(shown[..464].iter().all(|&byte| byte == 1));
    assert!(shown[464..512].iter().all(|&byte| byte == 0));
    let of_more: Vec<_> = (520..0x980).filter(|&at| shown[at] != 0).collect();
    assert_eq!(of_more, [0x241]);
}

const LEGACY_END: usize = 512;

#[test]
fn nothing_is_taken_of_a_guests_header_but_its_components() {
    let mut ram = Ram::reserve(1 << 20).unwrap();
    ram.back_with_zeroes().unwrap();
    let (memory, layout) = (ram.memory(), layout());
    memory.write_slice(&[0xff; 8192], GuestAddress(0)).unwrap();
    let mut xsave = layout.image_in(memory, GuestAddress(64)).unwrap();
    let bytes = xsave.region.as_mut_bytes();
    assert_eq!(xstate_bv(bytes), 0xe7);
    assert!(bytes[REST_OF_HEADER].iter().all(|&byte| byte == 0));
    assert_eq!((bytes[511], bytes[576]), (0xff, 0xff));
    assert_eq!((bytes[0x97f], bytes[0x980]), (0xff, 0));
}

/// A vCPU with 1 MiB of memory, in the order in which they must be dropped.
struct Machine {
    vcpu: Vcpu,
    layout: XstateLayout,
    _vm: Vm,
    ram: Ram,
}

impl Machine {
    fn new() -> Self {
        let host = Host::open().expect("these tests need /dev/kvm");
        let mut ram = Ram::reserve(1 << 20).unwrap();
        ram.back_with_zeroes().unwrap();
        let vm = Vm::new(&host).unwrap();
        // SAFETY: `ram` is dropped after `vm`.
        unsafe { vm.set_memory(&ram).unwrap() };
        let vcpu = Vcpu::new(&host, &vm, 0, 1).unwrap();
        let mut fingerprint = HostFingerprint::clone(&host.fingerprint(&vcpu).unwrap());
        fingerprint.kind = HostKind::Pvm;
        Self {
            layout: XstateLayout::for_guests_of(&fingerprint),
            vcpu,
            _vm: vm,
            ram,
        }
    }

    fn save(&self, at: u64) {
        let memory = self.ram.memory();
        let saved = self.layout.save(&self.vcpu, memory, GuestAddress(at));
        saved.unwrap();
    }

    fn load(&self, at: u64) {
        let memory = self.ram.memory();
        let loaded = self.layout.load(&self.vcpu, memory, GuestAddress(at));
        loaded.unwrap();
    }

    fn area(&self, at: u64) -> Vec<u8> {
        let mut area = vec![0; self.layout.size];
        let memory = self.ram.memory();
        memory.read_slice(&mut area, GuestAddress(at)).unwrap();
        area
    }

    fn set_area(&self, at: u64, area: &[u8]) {
        let memory = self.ram.memory();
        memory.write_slice(area, GuestAddress(at)).unwrap();
    }
}

#[test]
fn all_registers_come_back_as_they_were_saved_and_initial_ones_are_initial() {
    let machine = Machine::new();
    machine.save(0);
    let initial = machine.area(0);
    assert_eq!(xstate_bv(&initial), 3);
    let mut all = initial.clone();
    let components = machine.layout.components;
    all[XSTATE_BV].copy_from_slice(&components.to_le_bytes());
    all[160..416].fill(0x5a);
    for (bit, place) in &machine.layout.extended {
        all[place.clone()].fill(*bit as u8 | 1);
    }
    machine.set_area(4096, &all);
    machine.load(4096);
    machine.save(8192);
    assert_eq!(machine.area(8192), all);
    // As after exec(2).
    machine.set_area(4096, &vec![0; machine.layout.size]);
    machine.load(4096);
    machine.save(8192);
    assert_eq!(machine.area(8192), initial);
}

#[test]
fn whatever_a_guest_has_in_its_area_it_gets_registers_that_a_processor_can_have() {
    let machine = Machine::new();
    machine.set_area(0, &vec![0xff; machine.layout.size]);
    machine.load(0);
    machine.save(4096);
    let area = machine.area(4096);
    let mxcsr = u32::from_le_bytes(area[MXCSR].try_into().unwrap());
    assert_eq!(mxcsr, INITIAL_MXCSR);
    assert_eq!(xstate_bv(&area), machine.layout.components);
    assert!(area[160..416].iter().all(|&byte| byte == 0xff));
}

/// The next of a sequence of numbers without a pattern (xorshift64).
fn next(number: &mut u64) -> u64 {
    *number ^= *number << 13;
    *number ^= *number >> 7;
    *number ^= *number << 17;
    *number
}

#[test]
fn no_bytes_in_an_area_make_loading_fail_and_what_is_saved_then_can_be_loaded_unchanged() {
    let machine = Machine::new();
    let mut number = 0x5eed_5eed_5eed_5eed;
    for round in 0..2000 {
        let mut area = vec![0; machine.layout.size];
        // Of all of it, or of its header and MXCSR alone, which have rules.
        let changed = [0..area.len(), 512..576, MXCSR][round % 3].clone();
        area[changed].fill_with(|| next(&mut number) as u8);
        machine.set_area(0, &area);
        machine.load(0);
        machine.save(4096);
        let saved = machine.area(4096);
        assert_eq!(xstate_bv(&saved) & !machine.layout.components, 0);
        assert!(saved[REST_OF_HEADER].iter().all(|&byte| byte == 0));
        machine.load(4096);
        machine.save(8192);
        assert_eq!(machine.area(8192), saved);
    }
}

#[test]
fn an_area_that_is_not_whole_in_memory_is_neither_written_nor_read() {
    let machine = Machine::new();
    let end = 1 << 20;
    let size = machine.layout.size as u64;
    for at in [end - size + 64, end, !63] {
        machine.save(at);
        machine.load(at);
    }
    let mut tail = vec![1; 4096];
    let memory = machine.ram.memory();
    let at = GuestAddress(end - 4096);
    memory.read_slice(&mut tail, at).unwrap();
    assert!(tail.iter().all(|&byte| byte == 0));
    machine.save(end - size);
    assert_eq!(xstate_bv(&machine.area(end - size)), 3);
}
