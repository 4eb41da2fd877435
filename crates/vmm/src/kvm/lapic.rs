//! Corrects a saved local APIC (registers: SDM vol. 3A, table 12-1) so that its timer delivers no
//! interrupt twice after a restore, and loses none.

use kvm_bindings::{kvm_lapic_state, kvm_msr_entry};

const IN_SERVICE: usize = 0x100;
const REQUESTED: usize = 0x200;
const LVT_TIMER: usize = 0x320;
const LINT0: usize = 0x350;
const LINT1: usize = 0x360;
const INITIAL_COUNT: usize = 0x380;
const CURRENT_COUNT: usize = 0x390;

/// In an entry of the local vector table.
const MASKED: u32 = 1 << 16;

/// In that of the timer.
const TIMER_MODE: u32 = 0b11 << 17;
const ONE_SHOT: u32 = 0b00 << 17;
const TSC_DEADLINE: u32 = 0b10 << 17;

/// IA32_TSC_DEADLINE (SDM vol. 3A, 12.5.4.1).
const MSR_TSC_DEADLINE: u32 = 0x6e0;

/// A deadline that passed long ago: 0 would be none.
const LONG_PASSED: u64 = 1;

/// Wires the local APIC as firmware leaves it: LINT0 takes the 8259's interrupts, LINT1 is
/// the NMI (SDM vol. 3A, 12.5.1).
pub(super) fn wire_local_interrupts(lapic: &mut kvm_lapic_state) {
    const MODE_NMI: u32 = 4 << 8;
    const MODE_EXT_INT: u32 = 7 << 8;
    set_register(lapic, LINT0, MODE_EXT_INT);
    set_register(lapic, LINT1, MODE_NMI);
}

/// A one-shot timer that has expired would expire again when its state is set: KVM starts it with
/// the remaining count, 0. If its interrupt is requested or in service, it has been delivered, and
/// must not be again. (Otherwise KVM may still have to deliver it, and the restarted timer does.)
pub(super) fn forget_delivered_timer(lapic: &mut kvm_lapic_state) {
    let timer = register(lapic, LVT_TIMER);
    let is_one_shot = timer & TIMER_MODE == ONE_SHOT;
    let has_expired = register(lapic, CURRENT_COUNT) == 0;
    let has_come = has(lapic, IN_SERVICE, timer) || has(lapic, REQUESTED, timer);
    if is_one_shot && has_expired && has_come {
        set_register(lapic, INITIAL_COUNT, 0);
    }
}

/// A deadline that reads 0 has passed or was never set. If it has passed, its interrupt is
/// requested, or the guest has taken it. If it is not requested, it may have been lost between
/// reading the MSRs and the APIC, and a guest that waits for it would hang. So it is delivered:
/// one interrupt too many is harmless, because any guest must expect one from a timer that it has
/// just disarmed.
pub(super) fn repair_lost_deadline(lapic: &kvm_lapic_state, msrs: &mut [kvm_msr_entry]) {
    let timer = register(lapic, LVT_TIMER);
    let is_in_use = timer & (TIMER_MODE | MASKED) == TSC_DEADLINE;
    if !is_in_use || has(lapic, REQUESTED, timer) {
        return;
    }
    let mut msrs = msrs.iter_mut();
    if let Some(deadline) = msrs.find(|msr| msr.index == MSR_TSC_DEADLINE && msr.data == 0) {
        deadline.data = LONG_PASSED;
    }
}

/// Whether the interrupt of this entry of the vector table is in a set of vectors.
fn has(lapic: &kvm_lapic_state, set: usize, entry: u32) -> bool {
    let vector = entry as usize & 0xff;
    register(lapic, set + vector / 32 * 16) & 1 << (vector % 32) != 0
}

fn register(lapic: &kvm_lapic_state, at: usize) -> u32 {
    u32::from_le_bytes([0, 1, 2, 3].map(|byte| lapic.regs[at + byte] as u8))
}

fn set_register(lapic: &mut kvm_lapic_state, at: usize, value: u32) {
    for (byte, value) in lapic.regs[at..].iter_mut().zip(value.to_le_bytes()) {
        *byte = value as _;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTOR: u32 = 0xec;

    fn lapic(timer: u32, requested: bool, in_service: bool) -> kvm_lapic_state {
        let mut lapic = kvm_lapic_state::default();
        set_register(&mut lapic, LVT_TIMER, timer | VECTOR);
        let place = VECTOR as usize / 32 * 16;
        for (set, is_in) in [(REQUESTED, requested), (IN_SERVICE, in_service)] {
            set_register(&mut lapic, set + place, u32::from(is_in) << (VECTOR % 32));
        }
        lapic
    }

    /// The deadline that is saved where this one is read.
    fn saved(lapic: &kvm_lapic_state, deadline: u64) -> u64 {
        let mut msrs = [(0x10, 0), (MSR_TSC_DEADLINE, deadline), (0x11, 0)].map(|(index, data)| {
            kvm_msr_entry {
                index,
                data,
                ..Default::default()
            }
        });
        repair_lost_deadline(lapic, &mut msrs);
        assert_eq!([msrs[0].data, msrs[2].data], [0, 0]);
        msrs[1].data
    }

    #[test]
    fn a_deadline_that_passed_without_a_trace_comes_in_the_clone() {
        assert_eq!(saved(&lapic(TSC_DEADLINE, false, false), 0), LONG_PASSED);
        // The guest is at the one before.
        assert_eq!(saved(&lapic(TSC_DEADLINE, false, true), 0), LONG_PASSED);
    }

    #[test]
    fn a_deadline_that_is_still_to_come_or_has_its_interrupt_stays_as_it_is() {
        assert_eq!(saved(&lapic(TSC_DEADLINE, false, false), 77), 77);
        assert_eq!(saved(&lapic(TSC_DEADLINE, true, false), 0), 0);
        assert_eq!(saved(&lapic(TSC_DEADLINE, true, false), 77), 77);
    }

    #[test]
    fn a_timer_that_is_masked_or_in_another_mode_has_no_deadline() {
        assert_eq!(saved(&lapic(TSC_DEADLINE | MASKED, false, false), 0), 0);
        assert_eq!(saved(&lapic(ONE_SHOT, false, false), 0), 0);
    }

    #[test]
    fn a_one_shot_timer_whose_interrupt_has_come_does_not_start_again() {
        for (requested, in_service, count) in
            [(true, false, 0), (false, true, 0), (false, false, 9)]
        {
            let mut lapic = lapic(ONE_SHOT, requested, in_service);
            set_register(&mut lapic, INITIAL_COUNT, 9);
            forget_delivered_timer(&mut lapic);
            assert_eq!(register(&lapic, INITIAL_COUNT), count);
        }
    }
}
