//! One vCPU: running it, and saving and restoring its state.

use super::{Host, HostKind, KvmError, Vm, call, exact, lapic, tsc};
use crate::sys::mapping;
use hyperfork_state::RecordType;
use kvm_bindings::{
    KVM_MP_STATE_RUNNABLE, Msrs, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU8, Ordering};

/// `OUT 0x80, AL`: exits at once, in real mode as in any other.
pub const WARM_UP_CODE: [u8; 2] = [0xe6, 0x80];

/// The time-stamp counter (SDM vol. 4, IA32_TIME_STAMP_COUNTER).
const MSR_TSC: u32 = 0x10;

/// One virtual CPU.
#[derive(Debug)]
pub struct Vcpu {
    pub(super) fd: VcpuFd,
    /// MSRs this host reads and writes back on a fresh vCPU: the ones to save.
    msrs: Vec<u32>,
    /// Whether the TSC's offset can be read and set.
    tsc_offset: bool,
}

/// Everything a vCPU holds.
#[derive(Debug, Serialize, Deserialize)]
pub struct VcpuState {
    /// General registers, instruction pointer, flags.
    #[serde(deserialize_with = "exact::deserialize")]
    pub regs: kvm_regs,
    /// Segments, tables and control registers.
    #[serde(deserialize_with = "exact::deserialize")]
    pub sregs: kvm_sregs,
    #[serde(deserialize_with = "exact::deserialize")]
    pub(super) xsave: kvm_xsave,
    #[serde(deserialize_with = "exact::deserialize")]
    pub(super) xcrs: kvm_xcrs,
    #[serde(deserialize_with = "exact::deserialize")]
    pub(super) debug_regs: kvm_debugregs,
    #[serde(deserialize_with = "exact::deserialize")]
    pub(super) lapic: kvm_lapic_state,
    #[serde(deserialize_with = "exact::each::deserialize")]
    pub(super) msrs: Vec<kvm_msr_entry>,
    pub(super) tsc_offset: Option<u64>,
    #[serde(deserialize_with = "exact::deserialize")]
    pub(super) events: kvm_vcpu_events,
    /// Running, halted, or waiting for its start (application processors).
    #[serde(deserialize_with = "exact::deserialize")]
    pub mp_state: kvm_mp_state,
}

impl RecordType for VcpuState {
    const KIND: &'static str = "kvm-vcpu";
    const VERSION: u16 = 1;
}

impl VcpuState {
    /// Wires the local APIC as firmware leaves it: LINT0 takes the 8259's
    /// interrupts, LINT1 is the NMI (SDM vol. 3A, 12.5.1).
    pub fn wire_local_interrupts(&mut self) {
        lapic::wire_local_interrupts(&mut self.lapic);
    }

    /// The guest's TSC less the host's, cycles; `None` where it cannot be set.
    pub fn tsc_offset(&self) -> Option<u64> {
        self.tsc_offset
    }

    /// Turns the TSC back by so many cycles.
    pub fn turn_tsc_back(&mut self, by: u64) {
        self.tsc_offset = self.tsc_offset.map(|offset| offset.wrapping_sub(by));
    }

    /// Its main registers, in one line for the report of a guest's crash.
    pub fn describe(&self) -> String {
        let (regs, sregs, events) = (&self.regs, &self.sregs, &self.events);
        format!(
            "RIP {:#x} RSP {:#x} RFLAGS {:#x} CS {:#x} SS {:#x} CR0 {:#x} CR2 {:#x} CR3 {:#x} CR4 {:#x} \
             EFER {:#x} IDT {:#x} GDT {:#x} TR {:#x}, exception {:?}, interrupt {:?}",
            regs.rip,
            regs.rsp,
            regs.rflags,
            sregs.cs.selector,
            sregs.ss.selector,
            sregs.cr0,
            sregs.cr2,
            sregs.cr3,
            sregs.cr4,
            sregs.efer,
            sregs.idt.base,
            sregs.gdt.base,
            sregs.tr.base,
            events.exception,
            events.interrupt,
        )
    }
}

impl Vcpu {
    /// Makes vCPU `index` of `count`.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn new(host: &Host, vm: &Vm, index: u8, count: u8) -> Result<Self, KvmError> {
        let mut fd = vm
            .fd
            .create_vcpu(index.into())
            .map_err(call("KVM_CREATE_VCPU"))?;
        keep_from_children(host, &mut fd)?;
        fd.set_cpuid2(&host.cpuid_for(index, count)?)
            .map_err(call("KVM_SET_CPUID2"))?;
        // PVM has the attribute, too, but whatever is set, it stays 0.
        let tsc_offset = host.kind() == HostKind::Hardware && tsc::has_offset(&fd);
        let all = host
            .kvm
            .get_msr_index_list()
            .map_err(call("KVM_GET_MSR_INDEX_LIST"))?;
        let mut vcpu = Self {
            fd,
            msrs: Vec::new(),
            tsc_offset,
        };
        let mut all = all.as_slice().to_vec();
        if tsc_offset || host.kind() == HostKind::Pvm {
            // The offset says the same and is exact; the value would be late. PVM ignores
            // both.
            all.retain(|&index| index != MSR_TSC);
        }
        vcpu.msrs = vcpu.restorable_msrs(all)?;
        Ok(vcpu)
    }

    /// Runs the guest until it needs the monitor.
    ///
    /// # Errors
    /// `EINTR` after a kick, `EAGAIN` from a vCPU that is not started; others as
    /// `KVM_RUN`.
    pub fn run(&mut self) -> Result<VcpuExit<'_>, kvm_ioctls::Error> {
        self.fd.run()
    }

    /// Runs the vCPU once, so that KVM does on this thread what it does at a first run (the next
    /// run takes 27 µs instead of 61–98 on a PVM host). The guest's memory must begin with
    /// [`WARM_UP_CODE`]. The vCPU's state is undefined afterwards.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn warm_up(&mut self) -> Result<(), KvmError> {
        let runnable = kvm_mp_state {
            mp_state: KVM_MP_STATE_RUNNABLE,
        };
        self.fd
            .set_mp_state(runnable)
            .map_err(call("KVM_SET_MP_STATE"))?;
        let mut sregs = self.fd.get_sregs().map_err(call("KVM_GET_SREGS"))?;
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        self.fd.set_sregs(&sregs).map_err(call("KVM_SET_SREGS"))?;
        let mut regs = self.regs()?;
        regs.rip = 0;
        self.fd.set_regs(&regs).map_err(call("KVM_SET_REGS"))?;
        self.fd.run().map_err(call("KVM_RUN"))?;
        self.complete();
        Ok(())
    }

    /// Completes the I/O instruction that caused the last exit, without entering the guest again.
    /// Without this, KVM completes it at the next run, over the state that was set since.
    pub fn complete(&mut self) {
        self.immediate_exit().store(1, Ordering::Relaxed);
        // Always EINTR, because `immediate_exit` is set.
        let _ = self.fd.run();
        self.immediate_exit().store(0, Ordering::Relaxed);
    }

    /// The byte that makes the next `KVM_RUN` return at once. The handler of a
    /// [kick](crate::sys::kick) writes it, too.
    pub fn immediate_exit(&mut self) -> &AtomicU8 {
        let flag = &raw mut self.fd.get_kvm_run().immediate_exit;
        // SAFETY: the byte is in the vCPU's `kvm_run`, which is mapped as long as `self` is
        // there. In this process only atomic stores write it.
        unsafe { AtomicU8::from_ptr(flag) }
    }

    /// What KVM says about an internal error (api.rst, KVM_EXIT_INTERNAL_ERROR):
    /// the suberror and its data.
    pub fn internal_error(&mut self) -> (u32, Vec<u64>) {
        let run = self.fd.get_kvm_run();
        // SAFETY: after KVM_EXIT_INTERNAL_ERROR this member of the union is the valid
        // one; all of it is plain integers in any case.
        let internal = unsafe { run.__bindgen_anon_1.internal };
        let count = (internal.ndata as usize).min(internal.data.len());
        (internal.suberror, internal.data[..count].to_vec())
    }

    /// The general registers of a vCPU that is not running.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn regs(&self) -> Result<kvm_regs, KvmError> {
        self.fd.get_regs().map_err(call("KVM_GET_REGS"))
    }

    /// Saves the whole state. The vCPU must have left `KVM_RUN` by a kick, so that none of its I/O
    /// is half done.
    ///
    /// The order matters:
    /// - reading the MP state makes KVM process a pending INIT or SIPI, which changes
    ///   registers, so it comes first;
    /// - MSRs before the local APIC: a TSC deadline that passes in between is saved both as a
    ///   deadline and as its interrupt, which together make one interrupt, and not as neither;
    /// - events come last, when nothing can add to them any more.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn save(&self) -> Result<VcpuState, KvmError> {
        let mp_state = self.fd.get_mp_state().map_err(call("KVM_GET_MP_STATE"))?;
        let mut msrs = self.get_msrs()?;
        let mut lapic = self.fd.get_lapic().map_err(call("KVM_GET_LAPIC"))?;
        lapic::forget_delivered_timer(&mut lapic);
        lapic::repair_lost_deadline(&lapic, &mut msrs);
        Ok(VcpuState {
            mp_state,
            regs: self.regs()?,
            sregs: self.fd.get_sregs().map_err(call("KVM_GET_SREGS"))?,
            xsave: self.xsave()?,
            xcrs: self.fd.get_xcrs().map_err(call("KVM_GET_XCRS"))?,
            debug_regs: self
                .fd
                .get_debug_regs()
                .map_err(call("KVM_GET_DEBUGREGS"))?,
            lapic,
            msrs,
            tsc_offset: match self.tsc_offset {
                true => Some(tsc::offset(&self.fd)?),
                false => None,
            },
            events: self
                .fd
                .get_vcpu_events()
                .map_err(call("KVM_GET_VCPU_EVENTS"))?,
        })
    }

    /// Sets the whole state, on a vCPU that is not running.
    ///
    /// The order matters:
    /// - special registers before the local APIC: they hold its base and mode, and
    ///   before MSRs: EFER in them decides how the rest is read;
    /// - XCR0 before XSAVE: components it does not enable are refused;
    /// - the TSC before the MSRs, and the local APIC before them too: a TSC
    ///   deadline sticks only if the APIC's timer is already in that mode, and is
    ///   compared with the TSC at once;
    /// - events last: every call before may inject or clear one.
    ///
    /// The TSC is set `tsc_back` cycles behind the state's offset
    /// ([`ClockPlan`](super::ClockPlan)).
    ///
    /// # Errors
    /// [`KvmError`], also when the state has an MSR this host does not take.
    pub fn restore(&self, state: &VcpuState, tsc_back: u64) -> Result<(), KvmError> {
        let fd = &self.fd;
        fd.set_mp_state(state.mp_state)
            .map_err(call("KVM_SET_MP_STATE"))?;
        fd.set_sregs(&state.sregs).map_err(call("KVM_SET_SREGS"))?;
        fd.set_regs(&state.regs).map_err(call("KVM_SET_REGS"))?;
        fd.set_xcrs(&state.xcrs).map_err(call("KVM_SET_XCRS"))?;
        self.set_xsave(&state.xsave)?;
        fd.set_debug_regs(&state.debug_regs)
            .map_err(call("KVM_SET_DEBUGREGS"))?;
        if let (Some(offset), true) = (state.tsc_offset, self.tsc_offset) {
            tsc::set_offset(fd, offset.wrapping_sub(tsc_back))?;
        }
        fd.set_lapic(&state.lapic).map_err(call("KVM_SET_LAPIC"))?;
        self.set_msrs(&state.msrs)?;
        fd.set_vcpu_events(&state.events)
            .map_err(call("KVM_SET_VCPU_EVENTS"))
    }

    /// The guest's TSC less the host's, cycles.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn tsc_offset(&self) -> Result<u64, KvmError> {
        match self.tsc_offset {
            true => tsc::offset(&self.fd),
            false => Ok(0),
        }
    }

    /// Turns the TSC back by so many cycles, if KVM can do that (PVM cannot; its guests use
    /// kvm-clock alone).
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn turn_tsc_back(&self, by: u64) -> Result<(), KvmError> {
        match self.tsc_offset {
            true => tsc::set_offset(&self.fd, tsc::offset(&self.fd)?.wrapping_sub(by)),
            false => Ok(()),
        }
    }

    /// The x87 and vector registers of a vCPU that is not running, in the standard format of XSAVE.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub(super) fn xsave(&self) -> Result<kvm_xsave, KvmError> {
        self.fd.get_xsave().map_err(call("KVM_GET_XSAVE"))
    }

    /// Sets them.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub(super) fn set_xsave(&self, xsave: &kvm_xsave) -> Result<(), KvmError> {
        // SAFETY: the buffer is a whole `kvm_xsave`; dynamic XSAVE features, for which
        // the kernel would read more, are never enabled.
        unsafe { self.fd.set_xsave(xsave) }.map_err(call("KVM_SET_XSAVE"))
    }

    fn get_msrs(&self) -> Result<Vec<kvm_msr_entry>, KvmError> {
        let mut entries = msr_entries(self.msrs.iter().copied());
        let read = self
            .fd
            .get_msrs(&mut entries)
            .map_err(call("KVM_GET_MSRS"))?;
        match self.msrs.get(read) {
            None => Ok(entries.as_slice().to_vec()),
            Some(&index) => Err(KvmError::Msr { index }),
        }
    }

    fn set_msrs(&self, entries: &[kvm_msr_entry]) -> Result<(), KvmError> {
        let set = self
            .fd
            .set_msrs(&Msrs::from_entries(entries).expect("as many MSRs as KVM listed"))
            .map_err(call("KVM_SET_MSRS"))?;
        match entries.get(set) {
            None => Ok(()),
            Some(entry) => Err(KvmError::Msr { index: entry.index }),
        }
    }

    /// The MSRs of KVM's list that can be read and written back on this host. (KVM also lists
    /// some that depend on CPUID, or that the processor lacks.)
    fn restorable_msrs(&self, mut wanted: Vec<u32>) -> Result<Vec<u32>, KvmError> {
        // KVM stops at the first MSR that it refuses, and returns how many it has read.
        let mut readable = Vec::new();
        while !wanted.is_empty() {
            let mut entries = msr_entries(wanted.iter().copied());
            let read = self
                .fd
                .get_msrs(&mut entries)
                .map_err(call("KVM_GET_MSRS"))?;
            readable.extend_from_slice(&entries.as_slice()[..read]);
            wanted.drain(..(read + 1).min(wanted.len()));
        }
        let mut restorable = Vec::new();
        while !readable.is_empty() {
            let entries = Msrs::from_entries(&readable).expect("as many MSRs as KVM listed");
            let set = self.fd.set_msrs(&entries).map_err(call("KVM_SET_MSRS"))?;
            restorable.extend(readable[..set].iter().map(|entry| entry.index));
            readable.drain(..(set + 1).min(readable.len()));
        }
        Ok(restorable)
    }
}

/// Children of this process cannot use the vCPU, but its mapping alone would keep it,
/// and the VM with it, alive.
fn keep_from_children(host: &Host, fd: &mut VcpuFd) -> Result<(), KvmError> {
    let size = host
        .kvm
        .get_vcpu_mmap_size()
        .map_err(call("KVM_GET_VCPU_MMAP_SIZE"))?;
    let run = std::ptr::from_mut(fd.get_kvm_run()).cast();
    mapping::keep_from_children(run, size).map_err(|source| KvmError::Call {
        call: "madvise",
        source,
    })
}

fn msr_entries(indices: impl Iterator<Item = u32>) -> Msrs {
    let entries: Vec<_> = indices
        .map(|index| kvm_msr_entry {
            index,
            ..Default::default()
        })
        .collect();
    Msrs::from_entries(&entries).expect("as many MSRs as KVM listed")
}
