//! `ps`.

use crate::args::Ps;
use crate::config;
use crate::exit;
use crate::ui::{self, Table, age};
use hyperfork_api::{Bytes, VmInfo, VmState};
use hyperfork_host::{ClientError, RunDir, client};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Lists VMs.
///
/// # Errors
/// The run directory's, or standard output's.
pub(crate) fn run(args: &Ps) -> anyhow::Result<u8> {
    let mut infos = all(&config::run_dir()?)?;
    infos.retain(|info| args.all || info.status.state.is_alive());
    if args.json {
        ui::json(&infos)?;
    } else if args.quiet {
        ui::print(
            &infos
                .iter()
                .map(|info| format!("{}\n", info.about.name))
                .collect::<String>(),
        )?;
    } else {
        ui::print(&human(&infos))?;
    }
    Ok(exit::OK)
}

/// All VMs, by name. Those without a readable description are reported on standard error.
///
/// # Errors
/// The run directory's.
pub(super) fn all(run_dir: &RunDir) -> anyhow::Result<Vec<VmInfo>> {
    let mut infos = Vec::new();
    for found in client::infos(&run_dir.list()?) {
        match found {
            Ok(info) => infos.push(info),
            // Just removed, or its name was just claimed.
            Err(ClientError::Unknown { .. } | ClientError::Starting { .. }) => {}
            Err(error) => ui::error(&error.into()),
        }
    }
    Ok(infos)
}

fn human(infos: &[VmInfo]) -> String {
    let mut table = Table::new([
        "NAME", "IMAGE", "STATE", ">CPUS", ">MEMORY", "PARENT", ">AGE", "COMMAND",
    ]);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    for info in infos {
        let created = Duration::from_millis(info.about.created_unix_ms);
        table.row([
            info.about.name.to_string(),
            info.about.image.clone(),
            state(info),
            info.about.cpus.to_string(),
            Bytes::mib(info.about.memory_mib).to_string(),
            info.about
                .parent
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            age(now.saturating_sub(created)),
            command(info),
        ]);
    }
    table.render()
}

/// A state in a word, with the exit status where there is one.
pub(super) fn state(info: &VmInfo) -> String {
    let word = match info.status.state {
        _ if !info.status.answers => "no answer",
        VmState::Starting => "starting",
        VmState::Running => "running",
        VmState::Paused => "paused",
        VmState::Stopped => "stopped",
        VmState::Failed => "failed",
    };
    match info.status.exit_status {
        Some(status) => format!("{word} ({status})"),
        None => word.to_owned(),
    }
}

/// The command as one short line.
fn command(info: &VmInfo) -> String {
    const MOST: usize = 40;
    let line = info.about.command.as_deref().unwrap_or_default().join(" ");
    let mut line = line.lines().next().unwrap_or_default().to_owned();
    if let Some((end, _)) = line.char_indices().nth(MOST) {
        line.truncate(end);
        line.push('…');
    }
    line
}
