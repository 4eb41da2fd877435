//! Makes and removes the VMs of an experiment. Their names do not collide with those of other VMs,
//! and they end with the experiment.

use crate::cpu;
use crate::error::BenchError;
use crate::guest::Guest;
use hyperfork_api::control::{self, Ask, Pause, Resume};
use hyperfork_api::{CloneReport, ForkReport, Secrets, Strategy, VmInfo, VmName};
use hyperfork_host::{Client, ClientError, Config, LaunchError, RunDir, VmDir, launch, lifecycle};
use hyperfork_sys::scm;
use std::fs;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

/// The observer of a running experiment.
pub trait Watch {
    /// Whether it should go on; asked between samples, and while a guest boots.
    fn wanted(&self) -> bool;

    /// How many samples of how many were taken, and what the next is of.
    fn advance(&self, done: usize, of: usize, next: &str);
}

/// How long anything may take that a guest or a process does. Generous: hosts may
/// be busy, and guests big.
const TIMEOUT: Duration = Duration::from_secs(120);
const MOMENT: Duration = Duration::from_millis(1);

/// The VMs of one run. Dropping it ends and removes all of them.
pub struct Vms<'a> {
    host: Config,
    watch: &'a dyn Watch,
    /// The prefix of all names.
    prefix: String,
    booted: u32,
}

/// A VM that was booted.
#[derive(Debug)]
pub(crate) struct Booted {
    pub(crate) info: VmInfo,
    /// From the request to ready.
    pub(crate) took: Duration,
}

impl<'a> Vms<'a> {
    /// None yet.
    pub fn new(host: Config, watch: &'a dyn Watch) -> Self {
        Self {
            host,
            watch,
            prefix: format!("bench-{}-", std::process::id()),
            booted: 0,
        }
    }

    /// How they are run and where they are found.
    pub(crate) fn host(&self) -> &Config {
        &self.host
    }

    /// Where they are found.
    pub(crate) fn run_dir(&self) -> &RunDir {
        &self.host.run_dir
    }

    /// The observer.
    pub(crate) fn watch(&self) -> &'a dyn Watch {
        self.watch
    }

    /// # Errors
    /// [`BenchError::Interrupted`], once the observer wants the experiment to end.
    pub(crate) fn check(&self) -> Result<(), BenchError> {
        match self.watch.wanted() {
            true => Ok(()),
            false => Err(BenchError::Interrupted),
        }
    }

    /// Boots a VM and waits until it is ready.
    pub(crate) fn boot(
        &mut self,
        guest: &Guest,
        cpus: u8,
        memory_mib: u64,
        options: &str,
    ) -> Result<Booted, BenchError> {
        self.booted += 1;
        let name = VmName::new(format!("{}{}", self.prefix, self.booted))?;
        let spec = guest.spec(name, cpus, memory_mib, options);
        let begun = Instant::now();
        let info = launch(&self.host, &spec, Secrets::default())
            .and_then(|launched| launched.wait_ready_while(|| self.watch.wanted()))
            .map_err(|error| match error {
                LaunchError::Interrupted => BenchError::Interrupted,
                error => error.into(),
            })?;
        let took = begun.elapsed();
        Ok(Booted { info, took })
    }

    /// Forks a VM into clones, which are named after it.
    pub(crate) fn fork(
        &self,
        parent: &VmName,
        strategy: Strategy,
        count: u32,
    ) -> Result<ForkReport, BenchError> {
        self.fork_named(parent, parent, strategy, count)
    }

    /// As [`fork`](Self::fork), but the clones' names begin as `prefix`.
    pub(crate) fn fork_named(
        &self,
        parent: &VmName,
        prefix: &VmName,
        strategy: Strategy,
        count: u32,
    ) -> Result<ForkReport, BenchError> {
        let request = control::Fork {
            prefix: Some(prefix.clone()),
            strategy,
            ..control::Fork::new(count)
        };
        Ok(self.ask(parent, request)?)
    }

    /// Makes a nano guest of the mode `quick` write its marks again, by resuming it. Returns when
    /// it has.
    pub(crate) fn write_marks(&self, vm: &VmName) -> Result<(), BenchError> {
        let rounds = || {
            let console = self.console(vm);
            // A booted VM prints the one, a clone the other.
            let ends = [" written\n", "nano: clone "];
            ends.map(|words| console.matches(words).count())
                .iter()
                .sum::<usize>()
        };
        let before = rounds();
        self.ask(vm, Pause {})?;
        self.ask(vm, Resume {})?;
        self.eventually(vm, "that it has written its pages", || rounds() > before)
    }

    /// Waits until each of these nano clones has signalled that it is done.
    pub(crate) fn await_done(&self, report: &ForkReport) -> Result<(), BenchError> {
        for clone in &report.clones {
            let vm = self.host.run_dir.vm(&clone.name);
            self.eventually(&clone.name, "that it is done", || {
                vm.info()
                    .is_ok_and(|info| info.status.exit_status.is_some())
            })?;
        }
        Ok(())
    }

    fn eventually(
        &self,
        vm: &VmName,
        what: &'static str,
        mut holds: impl FnMut() -> bool,
    ) -> Result<(), BenchError> {
        let begun = Instant::now();
        while !holds() {
            self.check()?;
            if begun.elapsed() > TIMEOUT {
                return Err(BenchError::Silent {
                    vm: vm.to_string(),
                    what,
                });
            }
            thread::sleep(MOMENT);
        }
        Ok(())
    }

    /// What a VM reports about itself.
    pub(crate) fn info(&self, vm: &VmName) -> Result<VmInfo, BenchError> {
        Ok(self.host.run_dir.vm(vm).info()?)
    }

    /// The processor time that a fork's clones have had since their processes began, the
    /// mean, microseconds. Call this before any other request to them.
    pub(crate) fn cpu_us(&self, report: &ForkReport) -> Option<f64> {
        let used = |clone: &CloneReport| {
            let socket =
                UnixStream::connect(self.host.run_dir.vm(&clone.name).control_socket()).ok()?;
            cpu::used_us(scm::peer(&socket).ok()?)
        };
        let used: Option<Vec<f64>> = report.clones.iter().map(used).collect();
        used.map(|used| used.iter().sum::<f64>() / used.len() as f64)
    }

    /// What a VM has printed.
    pub(crate) fn console(&self, vm: &VmName) -> String {
        let bytes = fs::read(self.host.run_dir.vm(vm).console_log()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn ask<A: Ask>(&self, vm: &VmName, request: A) -> Result<A::Reply, ClientError> {
        Client::connect(&self.host.run_dir.vm(vm))?.ask(request)
    }

    /// Ends a fork's clones and removes what is left of them.
    pub(crate) fn remove_clones(&self, report: &ForkReport) {
        let dirs: Vec<VmDir> = report
            .clones
            .iter()
            .map(|clone| self.host.run_dir.vm(&clone.name))
            .collect();
        lifecycle::discard(&dirs);
    }

    /// Ends VMs and removes what is left of them.
    pub(crate) fn remove_all(&self, vms: &[VmName]) {
        lifecycle::discard(
            &vms.iter()
                .map(|vm| self.host.run_dir.vm(vm))
                .collect::<Vec<_>>(),
        );
    }

    /// Ends a VM and removes what is left of it.
    pub(crate) fn remove(&self, vm: &VmName) {
        lifecycle::discard(&[self.host.run_dir.vm(vm)]);
    }
}

impl Drop for Vms<'_> {
    fn drop(&mut self) {
        let ours = |dir: &VmDir| dir.name().as_str().starts_with(&self.prefix);
        let all = self.host.run_dir.list().unwrap_or_default();
        lifecycle::discard(&all.into_iter().filter(ours).collect::<Vec<_>>());
    }
}
