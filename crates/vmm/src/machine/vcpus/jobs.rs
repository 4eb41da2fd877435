//! Jobs on all vCPUs at once while they are at rest: saving and restoring their state.
//!
//! Saving a vCPU's state takes 0.1 ms, restoring it 0.15, which would add up. So each vCPU thread
//! does its own, while the thread that posted the jobs does other work. When that thread comes
//! back, it does the jobs itself that no vCPU thread has begun.

use super::gate::{Job, Shared};
use super::{Vcpus, lock};
use crate::kvm::{KvmError, Vcpu, VcpuState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

/// Why a job on a vCPU failed.
#[derive(Debug, thiserror::Error)]
pub enum VcpuJobError {
    /// KVM refused.
    #[error("vCPU {index}")]
    Kvm {
        /// Which one.
        index: usize,
        /// What KVM said.
        source: KvmError,
    },
    /// The job panicked: a bug.
    #[error("vCPU {index}: the monitor's own code panicked")]
    Panicked {
        /// Which one.
        index: usize,
    },
    /// The job was dropped before a thread did it.
    #[error("vCPU {index}: its state was neither read nor set")]
    Lost {
        /// Which one.
        index: usize,
    },
}

/// Jobs under way, one for each vCPU. The vCPUs must stay at rest until the jobs are
/// [finished](Self::finish).
#[must_use = "the jobs may not be done before they are finished"]
pub(in super::super) struct VcpuJobs<T> {
    shared: Arc<Shared>,
    cpus: Vec<Arc<Mutex<Vcpu>>>,
    results: Receiver<(usize, Result<T, VcpuJobError>)>,
}

impl Vcpus {
    /// Saves the state of all vCPUs, which must be at rest.
    pub(in super::super) fn save(&self) -> VcpuJobs<VcpuState> {
        self.post(self.cpus.iter().map(|_| |vcpu: &mut Vcpu| vcpu.save()))
    }

    /// Restores the state of all vCPUs, which must be at rest, with their TSCs turned back by
    /// `tsc_back` cycles.
    pub(in super::super) fn restore(&self, states: Vec<VcpuState>, tsc_back: u64) -> VcpuJobs<()> {
        let set = |state: VcpuState| move |vcpu: &mut Vcpu| vcpu.restore(&state, tsc_back);
        self.post(states.into_iter().map(set))
    }

    pub(super) fn post<T: Send + 'static>(
        &self,
        works: impl Iterator<Item = impl FnOnce(&mut Vcpu) -> Result<T, KvmError> + Send + 'static>,
    ) -> VcpuJobs<T> {
        let (sender, results) = channel();
        let jobs = works.enumerate().map(|(index, work)| {
            let sender = sender.clone();
            let job: Job = Box::new(move |vcpu| {
                // A panic spoils the vCPU's state, but its thread must survive to report it.
                let result = match catch_unwind(AssertUnwindSafe(|| work(vcpu))) {
                    Ok(result) => result.map_err(|source| VcpuJobError::Kvm { index, source }),
                    Err(_) => Err(VcpuJobError::Panicked { index }),
                };
                // Fails only if the thread that posted the jobs has given up.
                let _ = sender.send((index, result));
            });
            Some(job)
        });
        self.shared.gate().jobs = jobs.collect();
        // A single job is done here sooner than its thread wakes up.
        if self.cpus.len() > 1 {
            self.shared.changed.notify_all();
        }
        VcpuJobs {
            shared: self.shared.clone(),
            cpus: self.cpus.clone(),
            results,
        }
    }
}

impl<T> VcpuJobs<T> {
    /// Waits until all jobs are done. Returns one result per vCPU, in their order.
    ///
    /// # Errors
    /// That of the first vCPU whose job failed or was missing.
    pub(in super::super) fn finish(self) -> Result<Vec<T>, VcpuJobError> {
        for (index, vcpu) in self.cpus.iter().enumerate() {
            let left = self.shared.gate().take_job(index);
            if let Some(job) = left {
                job(&mut lock(vcpu));
            }
        }
        let mut results: Vec<_> = self.cpus.iter().map(|_| None).collect();
        // The channel closes when every job has answered or was dropped.
        for (index, result) in self.results.iter().take(results.len()) {
            results[index] = Some(result);
        }
        let results = results.into_iter().enumerate();
        results
            .map(|(index, result)| result.unwrap_or(Err(VcpuJobError::Lost { index })))
            .collect()
    }
}

impl<T> Drop for VcpuJobs<T> {
    fn drop(&mut self) {
        self.shared.gate().jobs.clear();
    }
}
