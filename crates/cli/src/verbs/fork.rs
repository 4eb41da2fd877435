//! `fork`.

use super::milliseconds;
use crate::args::Fork;
use crate::config;
use crate::exit;
use crate::ui::{self, Progress, Table, duration_us};
use anyhow::anyhow;
use hyperfork_api::control;
use hyperfork_api::{ForkReport, Strategy};
use hyperfork_host::{Client, VmDir};
use hyperfork_sys::sched;

/// Clones a running VM.
///
/// # Errors
/// The VM cannot be forked. It is unharmed then, and no clone is left.
pub(crate) fn run(args: Fork) -> anyhow::Result<u8> {
    let dir = config::vm(&args.vm)?;
    let progress = Progress::unless(args.quiet);
    let request = control::Fork {
        count: args.count,
        prefix: args.name_prefix,
        strategy: args.strategy,
        secrets: args.secrets.into_values(),
        ready_timeout_ms: args.ready_timeout.map(milliseconds),
        best_effort: args.best_effort,
    };
    // The clones' vCPUs compete for the processors when the report comes.
    sched::use_short_time_slice();
    let report = fork(&dir, request, progress)?;
    match args.json {
        true => ui::json(&report)?,
        false => ui::print(&human(&report))?,
    }
    for clone in &report.failed {
        ui::error(&anyhow!(
            "{} did not come to life: {}",
            clone.name,
            clone.error
        ));
    }
    Ok(match report.failed.is_empty() {
        true => exit::OK,
        false => exit::FAILED,
    })
}

/// Sends a VM the request to fork.
///
/// # Errors
/// As [`run`].
pub(crate) fn fork(
    dir: &VmDir,
    request: control::Fork,
    progress: Progress,
) -> anyhow::Result<ForkReport> {
    let mut client = Client::connect(dir)?;
    let step = progress.step(&format!("forking {}, {} times", dir.name(), request.count));
    let report = client.ask(request);
    drop(step);
    Ok(report?)
}

fn human(report: &ForkReport) -> String {
    let mut table = Table::new(["NAME", ">RUNNING AFTER", ">READY AFTER"]);
    for clone in &report.clones {
        let (total, ready) = (duration_us(clone.total_us), duration_us(clone.ready_us));
        table.row([clone.name.to_string(), total, ready]);
    }
    let strategy = match report.strategy {
        Strategy::Image => "image",
        Strategy::ProcessFork => "process-fork",
    };
    let pause = duration_us(report.pause_us);
    format!(
        "{}\n{} stood still for {pause} (strategy {strategy})\n",
        table.render(),
        report.parent
    )
}
