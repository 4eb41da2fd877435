//! Tests of forks with a guest that checks itself (crates/nano).
#![allow(clippy::unwrap_used)] // A test fails by panicking.

#[allow(dead_code)]
mod support;

use hyperfork_api::one_line;
use hyperfork_api::signal::Message;
use hyperfork_nano::{Options, Work, report};
use hyperfork_state::{Blob, BlobRole, CheckError, HostFingerprint};
use hyperfork_sys::clock::{Monotonic, host_tsc};
use hyperfork_vmm::kvm::{Host, VcpuState};
use hyperfork_vmm::machine::{Capture, MachineError, Shell};
use hyperfork_vmm::memory::layout::DOORBELL_IRQ;
use hyperfork_vmm::snapshot::{DecodeError, MachineState, Preload, Shape};
use std::sync::Arc;
use std::time::Duration;
use support::Vm;

// The guest knows the interrupt by a constant of its own.
const _: () = assert!(hyperfork_nano::DOORBELL_IRQ == DOORBELL_IRQ);

fn work(options: &str) -> Work {
    Options::parse(options).unwrap().work()
}

/// Forks in `mode` several times while the guest runs; parent and all clones must
/// find themselves as they should be.
fn survives(cpus: u8, options: &str, forks: usize) {
    let mut parent = Vm::boot(cpus, 64, options);
    for _ in 0..forks {
        for (clone, index) in parent.fork(2).iter().zip(1..) {
            assert_eq!(
                clone.done(),
                report(index),
                "clone {index}: {}",
                clone.console()
            );
        }
        parent.ring();
        assert_eq!(parent.done(), report(0), "the parent: {}", parent.console());
    }
}

#[test]
fn every_clone_finds_the_memory_of_the_fork_and_knows_which_one_it_is() {
    let options = "touch_mib=64";
    let mut parent = Vm::boot(1, 128, options);
    for (clone, index) in parent.fork(4).iter().zip(1..) {
        assert_eq!(
            clone.done(),
            work(options).answer(index),
            "{}",
            clone.console()
        );
    }
}

#[test]
fn clones_of_clones_find_all_that_their_line_wrote() {
    let options = "touch_mib=8 dirty_pages=300";
    let mut vm = Vm::boot(1, 64, options);
    for generation in 1..=4 {
        // The last clone lives on, the one it came from ends.
        let index = 1 + generation % 2;
        vm = vm.fork(2).swap_remove(index as usize - 1);
        assert_eq!(vm.done(), work(options).answer(index), "{}", vm.console());
    }
}

#[test]
fn memory_is_isolated_both_ways_on_every_page() {
    survives(2, "mode=isolate touch_mib=24", 3);
}

#[test]
fn registers_and_fpu_contents_survive_on_all_cpus() {
    survives(2, "mode=regs", 3);
}

#[test]
fn a_running_timer_comes_once_in_parent_and_clones() {
    survives(1, "mode=timer timer_ms=50", 3);
}

#[test]
fn a_pending_interrupt_comes_once_in_parent_and_clones() {
    let mut parent = Vm::boot(1, 64, "mode=pending");
    for round in 0..3 {
        if round > 0 {
            // Each time it has an interrupt pending again, it says so.
            assert_eq!(parent.message(), Message::Ready(0), "{}", parent.console());
        }
        for (clone, index) in parent.fork(2).iter().zip(1..) {
            assert_eq!(
                clone.done(),
                report(index),
                "clone {index}: {}",
                clone.console()
            );
        }
        parent.ring();
        assert_eq!(parent.done(), report(0), "the parent: {}", parent.console());
    }
}

/// How often a busy guest is forked, where that is not 100 times.
const FORKS: &str = "HYPERFORK_TEST_NANO_FORKS";

#[test]
fn a_busy_guest_of_two_cpus_can_be_forked_again_and_again() {
    let forks: usize = std::env::var(FORKS).map_or(100, |count| count.parse().unwrap());
    let options = "mode=spin touch_mib=4";
    let mut parent = Vm::boot(2, 64, options);
    for fork in 0..forks {
        let clone = parent.fork(1).remove(0);
        assert_eq!(
            clone.done(),
            work(options).answer(1),
            "fork {fork}: {}",
            clone.console()
        );
    }
}

#[test]
fn a_guest_of_eight_cpus_forks() {
    survives(8, "mode=regs", 1);
}

#[test]
fn clones_of_one_capture_can_be_made_long_after_the_parent_went_on() {
    let options = "touch_mib=16 dirty_pages=1000";
    let mut parent = Vm::boot(1, 64, options);
    let capture = parent.capture();
    // The parent writes its marked pages anew, and later forks see that.
    parent.ring();
    let later = parent.fork(1).remove(0);
    assert_eq!(later.done(), work(options).answer(1));
    let early = parent.clone_of(&capture, 2);
    assert_eq!(early.done(), work(options).answer(2), "{}", early.console());
}

#[test]
fn clones_live_on_when_their_parent_ends() {
    let options = "touch_mib=16";
    let mut parent = Vm::boot(1, 64, options);
    let mut clones = parent.fork(2);
    drop(parent);
    for (clone, index) in clones.iter().zip(1..) {
        assert_eq!(clone.done(), work(options).answer(index));
    }
    // And can be forked.
    let grandchild = clones[0].fork(1).remove(0);
    assert_eq!(grandchild.done(), work(options).answer(1));
}

#[test]
fn a_parent_lives_on_when_a_clone_ends_in_the_middle_of_its_work() {
    let mut parent = Vm::boot(2, 64, "mode=isolate touch_mib=16");
    drop(parent.fork(3));
    parent.ring();
    assert_eq!(parent.done(), report(0), "{}", parent.console());
}

#[test]
fn a_paused_machine_can_be_forked_and_stays_paused() {
    let options = "touch_mib=4";
    let mut parent = Vm::boot(1, 64, options);
    parent.machine().pause().stay();
    let capture = parent.capture_paused();
    let clone = parent.clone_of(&capture, 1);
    assert_eq!(clone.done(), work(options).answer(1));
    parent.machine().resume();
    let clone = parent.fork(1).remove(0);
    assert_eq!(clone.done(), work(options).answer(1));
}

const HOUR: Duration = Duration::from_secs(3600);

/// What a captured guest's clocks show: kvm-clock, and where they can be set the TSCs.
fn shown(capture: &Capture) -> (u64, Vec<Option<u64>>) {
    let clocks = &capture.state.vm.clocks;
    let tsc = |vcpu: &VcpuState| {
        let offset = vcpu.tsc_offset();
        offset.map(|offset| clocks.host_tsc.wrapping_add(offset))
    };
    let tscs = capture.state.vcpus.iter().map(tsc).collect();
    (clocks.kvm_clock_ns, tscs)
}

#[test]
fn an_hour_for_which_a_state_was_at_rest_has_not_been_for_the_machine_made_of_it() {
    let an_hour_of_cycles = 3600 * 3_000_000_000;
    let mut parent = Vm::boot(2, 64, "mode=spin");
    let mut capture = parent.capture();
    let clocks = &mut capture.state.vm.clocks;
    let up = clocks.at.since(Monotonic::from_ns(0)).unwrap();
    clocks.at = match up > HOUR {
        true => clocks.at.before(HOUR),
        // It was captured in another boot of the host.
        false => Monotonic::from_ns(u64::MAX / 2),
    };
    clocks.host_tsc = clocks.host_tsc.wrapping_sub(an_hour_of_cycles);
    let (clock, tscs) = shown(&capture);
    let mut clone = parent.clone_of(&capture, 1);
    assert_eq!(clone.done(), Work::new(0, 0).answer(1));
    let (clock_now, tscs_now) = shown(&clone.capture());
    let passed = Duration::from_nanos(clock_now.checked_sub(clock).unwrap());
    assert!(passed < HOUR / 2, "{passed:?}");
    for (tsc, now) in tscs.into_iter().zip(tscs_now) {
        let passed = now.zip(tsc).map(|(now, tsc)| now.wrapping_sub(tsc));
        assert!(
            passed.is_none_or(|passed| passed < an_hour_of_cycles / 2),
            "{passed:?}"
        );
    }
}

#[test]
fn a_pause_has_not_been_for_who_was_paused_nor_for_its_clones() {
    let mut parent = Vm::boot(2, 64, "mode=spin");
    parent.machine().pause().stay();
    let (clock, tscs) = shown(&parent.capture_paused());
    std::thread::sleep(Duration::from_secs(2));
    let capture = parent.capture_paused();
    assert_eq!(shown(&capture), (clock, tscs.clone()));
    let begun = (Monotonic::now(), host_tsc());
    parent.machine().resume();
    parent.machine().pause().stay();
    let mut clone = parent.clone_of(&capture, 1);
    let after = shown(&parent.capture_paused());
    assert_eq!(clone.done(), Work::new(0, 0).answer(1));
    // Two clocks that are not quite equally fast.
    let slack = Duration::from_millis(10);
    for (clock_now, tscs_now) in [after, shown(&clone.capture())] {
        let lived = Duration::from_nanos(clock_now.checked_sub(clock).unwrap());
        let most = Monotonic::now().since(begun.0).unwrap() + slack;
        assert!(lived <= most, "{lived:?} of {most:?}");
        let most = host_tsc() - begun.1;
        for (tsc, now) in tscs.iter().zip(tscs_now) {
            let lived = now.zip(*tsc).map(|(now, tsc)| now.wrapping_sub(tsc));
            assert!(
                lived.is_none_or(|lived| lived <= most),
                "{lived:?} of {most}"
            );
        }
    }
}

#[test]
fn the_guest_is_told_apart_before_its_first_instruction() {
    // The first thing a woken guest does is to read which clone it is; a clone that
    // had run before its interrupt was queued would take itself for the parent.
    let mut parent = Vm::boot(1, 64, "mode=spin");
    for index in [1, 77, 0xff_ffff] {
        let capture = parent.capture();
        let clone = parent.clone_of(&capture, index);
        assert_eq!(
            clone.message(),
            Message::Done(Work::new(0, 0).answer(index))
        );
    }
}

#[test]
fn a_state_with_a_vcpu_less_than_it_says_is_refused_and_the_parent_goes_on() {
    let options = "touch_mib=4";
    let mut parent = Vm::boot(2, 64, options);
    let mut capture = parent.capture();
    capture.state.vcpus.pop();
    match MachineState::decode(&capture.state.encode()) {
        Err(DecodeError::Check(error)) => {
            assert_eq!(error, CheckError::Vcpus { found: 1, said: 2 });
        }
        other => panic!("{other:?}"),
    }
    let clone = parent.fork(1).remove(0);
    assert_eq!(clone.done(), work(options).answer(1), "{}", clone.console());
}

#[test]
fn a_shell_that_waits_gets_a_familys_memory_and_nothing_else() {
    let mut parent = Vm::boot(1, 64, "mode=isolate touch_mib=4");
    drop(parent.fork(1));
    // A guest writes when it finds out whether it is the parent.
    parent.ring();
    assert_eq!(parent.done(), report(0), "{}", parent.console());
    let capture = parent.capture();
    let mut blobs = capture.state.blobs.iter();
    assert!(blobs.any(|blob| blob.role == BlobRole::RamLayer));
    for most in [0, usize::MAX] {
        let (preload, fds) = Preload::of(capture.ram.clone(), most, Vec::new()).unwrap();
        let is_memory = |blob: &Blob| matches!(blob.role, BlobRole::RamBase | BlobRole::RamLayer);
        assert!(preload.blobs.iter().all(is_memory), "{preload:?}");
        assert_eq!(fds.as_slice().len(), preload.blobs.len());
        assert_eq!(most == 0, preload.blobs.len() == 1, "{preload:?}");
        let preload = Preload::decode(&preload.encode()).unwrap();
        let host = Host::open().unwrap();
        let mut shell = Shell::new(&host, capture.state.shape.clone()).unwrap();
        shell.preload(&preload, &fds).unwrap();
    }
}

#[test]
fn a_state_for_another_shape_is_refused() {
    let mut parent = Vm::boot(1, 64, "");
    let capture = parent.capture();
    let host = Host::open().unwrap();
    let mut shape: Shape = capture.state.shape.clone();
    shape.cpus = 2;
    let shell = Shell::new(&host, shape).unwrap();
    let refused = support::restore(shell, capture);
    assert!(matches!(refused, Err(MachineError::Shape { .. })));
}

#[test]
fn a_state_of_another_boot_or_processor_is_refused_in_words_and_the_parent_goes_on() {
    let options = "touch_mib=4";
    let mut parent = Vm::boot(1, 64, options);
    let refusal = |mut capture: Capture, change: fn(&mut HostFingerprint)| {
        change(Arc::make_mut(&mut capture.state.host));
        let shell = Shell::new(&Host::open().unwrap(), capture.state.shape.clone()).unwrap();
        one_line(&support::restore(shell, capture).unwrap_err())
    };
    let message = refusal(parent.capture(), |host| host.boot.0.push('0'));
    assert!(message.ends_with("the boot id differs"), "{message}");
    let message = refusal(parent.capture(), |host| host.cpuid[0].answer[0] += 1);
    assert!(
        message.contains("CPUID differs in leaf 0x0, 0"),
        "{message}"
    );
    let clone = parent.fork(1).remove(0);
    assert_eq!(clone.done(), work(options).answer(1), "{}", clone.console());
}
