//! Something to be done with each vCPU while all are at rest.
//!
//! Reading a vCPU's state takes 0.1 ms, setting it 0.15, which would add up. So it is done
//! by its own thread, beside whatever their starter does meanwhile; what no thread has
//! begun when the starter comes back, it does itself.

use super::{Shared, Vcpus, lock};
use crate::kvm::{KvmError, Vcpu, VcpuState};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

/// What is to be done with one vCPU.
pub(super) type Errand = Box<dyn FnOnce(&mut Vcpu) + Send>;

/// Under way. The vCPUs must stay at rest until they are [finished](Self::finish).
#[must_use = "they may not be done before they are finished"]
pub(in super::super) struct Errands<T> {
    shared: Arc<Shared>,
    cpus: Vec<Arc<Mutex<Vcpu>>>,
    results: Receiver<(usize, Result<T, KvmError>)>,
}

impl Vcpus {
    /// Has the state of all vCPUs read, which are at rest.
    pub(in super::super) fn save(&self) -> Errands<VcpuState> {
        self.send(self.cpus.iter().map(|_| |vcpu: &mut Vcpu| vcpu.save()))
    }

    /// Has the state of all vCPUs set, which are at rest, with their TSCs so many cycles
    /// behind it.
    pub(in super::super) fn restore(&self, states: Vec<VcpuState>, tsc_back: u64) -> Errands<()> {
        let set = |state: VcpuState| move |vcpu: &mut Vcpu| vcpu.restore(&state, tsc_back);
        self.send(states.into_iter().map(set))
    }

    fn send<T: Send + 'static>(
        &self,
        works: impl Iterator<Item = impl FnOnce(&mut Vcpu) -> Result<T, KvmError> + Send + 'static>,
    ) -> Errands<T> {
        let (sender, results) = channel();
        let errands = works.enumerate().map(|(index, work)| {
            let sender = sender.clone();
            let errand: Errand = Box::new(move |vcpu| drop(sender.send((index, work(vcpu)))));
            Some(errand)
        });
        self.shared.gate().errands = errands.collect();
        // One alone is done sooner than its thread has woken up.
        if self.cpus.len() > 1 {
            self.shared.changed.notify_all();
        }
        Errands {
            shared: self.shared.clone(),
            cpus: self.cpus.clone(),
            results,
        }
    }
}

impl<T> Errands<T> {
    /// Waits until all are done: what came of them, in the vCPUs' order.
    ///
    /// # Errors
    /// The first of them.
    pub(in super::super) fn finish(self) -> Result<Vec<T>, KvmError> {
        for (index, vcpu) in self.cpus.iter().enumerate() {
            let left = self.shared.gate().take_errand(index);
            if let Some(errand) = left {
                errand(&mut lock(vcpu));
            }
        }
        let mut results: Vec<_> = self.results.iter().take(self.cpus.len()).collect();
        results.sort_by_key(|(index, _)| *index);
        results.into_iter().map(|(_, result)| result).collect()
    }
}

impl<T> Drop for Errands<T> {
    fn drop(&mut self) {
        self.shared.gate().errands.clear();
    }
}
