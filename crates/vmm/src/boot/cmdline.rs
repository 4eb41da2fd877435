//! The kernel's command line.

use crate::kvm::HostKind;
use crate::memory::layout;
use std::fmt::Write;

/// Longest command line the kernel reads, without its final NUL
/// (`COMMAND_LINE_SIZE` on x86 is 2048).
pub const MAX: usize = 2047;

/// For every guest: consoles, and an end of the VM instead of a hang.
const ALWAYS: &str = "console=hvc0 quiet reboot=k panic=-1";

/// What a guest needs where its kernel is emulated and CPUID cannot be filtered.
///
/// The first word switches on what guest/kernel/patches has for it, processor
/// features to keep off included. With the second the table of TCP connections has
/// few buckets: a clone's agent looks into all of them for those it inherited, which
/// takes 10 ms with the 8192 of a guest of 512 MiB.
const PVM: &str = "hyperfork.pvm thash_entries=256";

/// Makes the guest report free memory in runs of 512 KiB instead of 2 MiB, because much of what a
/// small guest frees has neighbours in use. If memory may be in huge pages, runs of 2 MiB keep
/// those whole. A PVM host needs the small runs in any case: its guests count only memory that
/// they have used before (patch 0010), and report nothing while that is less than 32 runs.
const SMALL_FREE_RUNS: &str = "page_reporting.page_reporting_order=7";

/// The command line of a Linux guest: the monitor's parameters, then the user's, which thus
/// override them.
pub fn linux(host: HostKind, huge_pages: bool, virtio_devices: usize, user: &str) -> String {
    let pvm = host == HostKind::Pvm;
    let mut line = ALWAYS.to_owned();
    for (is_wanted, parameters) in [(pvm, PVM), (pvm || !huge_pages, SMALL_FREE_RUNS)] {
        if is_wanted {
            line.push(' ');
            line.push_str(parameters);
        }
    }
    for slot in 0..virtio_devices {
        let (range, irq) = layout::virtio_slot(slot);
        let size = (range.end - range.start) >> 10;
        write!(line, " virtio_mmio.device={size}K@{:#x}:{irq}", range.start)
            .expect("writing to a String");
    }
    if !user.is_empty() {
        line.push(' ');
        line.push_str(user);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pvm_hosts_get_the_pvm_words() {
        assert!(linux(HostKind::Pvm, false, 0, "").contains("hyperfork.pvm"));
        assert!(!linux(HostKind::Hardware, false, 0, "").contains("hyperfork.pvm"));
    }

    #[test]
    fn free_memory_is_reported_in_small_runs_unless_that_would_break_up_huge_pages() {
        let small = |host, huge_pages| linux(host, huge_pages, 0, "").contains(SMALL_FREE_RUNS);
        assert!(small(HostKind::Hardware, false));
        assert!(!small(HostKind::Hardware, true));
        assert!(small(HostKind::Pvm, true) && small(HostKind::Pvm, false));
    }

    #[test]
    fn devices_are_described_and_the_users_words_come_last() {
        let line = linux(HostKind::Hardware, false, 2, "root=/dev/vda rw");
        assert!(line.contains("virtio_mmio.device=4K@0xd0000000:10"));
        assert!(line.contains("virtio_mmio.device=4K@0xd0001000:11"));
        assert!(line.ends_with("root=/dev/vda rw"));
    }

    #[test]
    fn the_longest_line_of_our_own_leaves_room_for_the_user() {
        assert!(linux(HostKind::Pvm, true, layout::VIRTIO_MAX, "").len() < MAX - 512);
    }
}
