//! With the embedded guest: every clone signals an answer that only it can know.

use super::Stage;
use super::family::Family;
use super::report::Figures;
use crate::ui::{self, Table, duration_us};
use crate::verbs::NANO;
use anyhow::{Context, bail};
use hyperfork_api::spec::Guest;
use hyperfork_api::{Bytes, ForkReport, VmInfo, VmName};
use hyperfork_nano::Options;
use std::thread;
use std::time::{Duration, Instant};

const MEMORY: Bytes = Bytes::mib(256);

/// It fills so much memory with words that depend on their place, and each clone
/// checks all of it.
const OPTIONS: &str = "touch_mib=64 dirty_pages=256";

/// Shows it.
///
/// # Errors
/// Something does not work here.
pub(super) fn show(stage: &Stage, count: u32) -> anyhow::Result<()> {
    let guest = Guest::Nano {
        options: OPTIONS.to_owned(),
    };
    let family = Family::boot(stage, NANO, MEMORY, guest)?;
    let boot_us = family.parent.status.ready_us.unwrap_or(0);
    ui::line(format!(
        "{} runs: {MEMORY} of memory, 64 MiB of it filled. Forking it {count} times.\n",
        family.parent.about.name
    ))?;

    let fork = family.fork(count)?;
    let clones = answers(&family, &fork)?;
    let mut table = Table::new(["CLONE", ">ANSWER", "", ">READY AFTER"]);
    for (clone, info) in fork.clones.iter().zip(&clones) {
        let answer = info.status.exit_status.unwrap_or_default();
        let ready = duration_us(clone.ready_us);
        table.row([
            clone.name.to_string(),
            format!("{answer:#08x}"),
            "as it must be".to_owned(),
            ready,
        ]);
    }
    ui::line(table.render())?;

    // The clones have written to their memory since. Were any of it the parent's,
    // another clone would find it.
    answers(&family, &family.fork(1)?)?;
    ui::line(format!(
        "{} is as it was: another clone of it answers right, too.\n",
        family.parent.about.name
    ))?;

    let mut figures = Figures::default();
    figures.add("cold boot to ready", duration_us(boot_us), "");
    figures.add_fork(&fork, &clones);
    ui::print(&figures.render())
}

/// Waits for every clone's answer.
///
/// # Errors
/// An answer is wrong.
fn answers(family: &Family<'_>, fork: &ForkReport) -> anyhow::Result<Vec<VmInfo>> {
    let options = Options::parse(OPTIONS)
        .ok()
        .context("the guest's options are wrong")?;
    let work = options.work();
    let mut infos = Vec::new();
    for clone in &fork.clones {
        let info = answered(family, &clone.name)?;
        let expected = work.answer(info.about.index);
        match info.status.exit_status {
            Some(answer) if answer as u32 == expected => infos.push(info),
            answer => bail!("{} answers {answer:?} instead of {expected}", clone.name),
        }
    }
    Ok(infos)
}

/// How long a guest may take for its work.
const PATIENCE: Duration = Duration::from_secs(120);

/// A VM, once it has signalled that its work is done.
fn answered(family: &Family<'_>, name: &VmName) -> anyhow::Result<VmInfo> {
    let begun = Instant::now();
    loop {
        let info = family.info(name)?;
        if info.status.exit_status.is_some() || begun.elapsed() > PATIENCE {
            return Ok(info);
        }
        thread::sleep(Duration::from_millis(10));
    }
}
