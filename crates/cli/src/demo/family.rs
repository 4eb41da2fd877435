//! The demonstration's VMs: booted, forked, and gone when it is over.

use super::Stage;
use crate::ui::{self, duration_us};
use crate::verbs::{boot, fork_vm, free_name_like};
use anyhow::Context;
use hyperfork_api::spec::Guest;
use hyperfork_api::{Bytes, ForkReport, Secrets, VmInfo, VmName, VmSpec, control};
use hyperfork_host::{VmDir, lifecycle};

/// A VM and its clones. Dropping it ends and removes all of them.
#[derive(Debug)]
pub(super) struct Family<'a> {
    stage: &'a Stage,
    /// The VM that was booted.
    pub(super) parent: VmInfo,
}

/// How long a guest may take to become ready: more than it ever should.
const READY_TIMEOUT_MS: u64 = 300_000;

impl<'a> Family<'a> {
    /// Boots the parent.
    ///
    /// # Errors
    /// It does not become ready.
    pub(super) fn boot(
        stage: &'a Stage,
        image: &str,
        memory: Bytes,
        guest: Guest,
    ) -> anyhow::Result<Self> {
        let spec = VmSpec {
            name: free_name_like(&stage.host.run_dir, "demo")?,
            cpus: 1,
            memory,
            guest,
            image: image.to_owned(),
            max_forks: None,
            identical_clones: false,
            ready_timeout_ms: READY_TIMEOUT_MS,
        };
        let parent = boot(
            &stage.host,
            &spec,
            Secrets::default(),
            stage.progress,
            &stage.interrupt,
        )?;
        let ready = duration_us(parent.status.ready_us.unwrap_or(0));
        ui::note(&format!("booting {}: {ready}", parent.about.name));
        Ok(Self { stage, parent })
    }

    /// Forks the parent.
    ///
    /// # Errors
    /// A clone does not come to life, or a signal interrupts.
    pub(super) fn fork(&self, count: u32) -> anyhow::Result<ForkReport> {
        let request = control::Fork::new(count);
        let report = fork_vm(
            &self.dir(&self.parent.about.name),
            request,
            self.stage.progress,
        )?;
        self.stage.interrupt.check()?;
        Ok(report)
    }

    /// Where a VM is reached.
    pub(super) fn dir(&self, name: &VmName) -> VmDir {
        self.stage.host.run_dir.vm(name)
    }

    /// A VM's description.
    ///
    /// # Errors
    /// It is gone.
    pub(super) fn info(&self, name: &VmName) -> anyhow::Result<VmInfo> {
        self.dir(name)
            .info()
            .with_context(|| format!("{name} is lost"))
    }

    /// The parent and all clones there are of it, also those of a fork that failed.
    fn members(&self) -> Vec<VmDir> {
        let parent = &self.parent.about.name;
        let ours = |dir: &VmDir| {
            let info = dir.info();
            dir.name() == parent
                || info.is_ok_and(|info| info.about.parent.as_ref() == Some(parent))
        };
        self.stage
            .host
            .run_dir
            .list()
            .into_iter()
            .flatten()
            .filter(ours)
            .collect()
    }
}

impl Drop for Family<'_> {
    fn drop(&mut self) {
        for dir in self.members() {
            // A VM that has been removed meanwhile is no error.
            let _ = lifecycle::remove_by_force(&dir);
        }
    }
}
