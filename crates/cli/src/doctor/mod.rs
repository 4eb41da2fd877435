//! `doctor`: what this host can do, and what to fix. It looks and never changes
//! anything.

mod host;
mod images;
mod kvm;
mod network;
mod program;

use crate::args::Doctor;
use crate::{config, exit, ui};
use serde::Serialize;

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    /// As it should be.
    Ok,
    /// Something works less well, or not at all, but VMs run.
    Warning,
    /// VMs cannot run.
    Failed,
}

/// One check.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    finding: String,
    /// What to do about it.
    advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, finding: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Ok,
            finding: finding.into(),
            advice: None,
        }
    }

    fn warning(name: &'static str, finding: impl Into<String>, advice: impl Into<String>) -> Self {
        let advice = Some(advice.into());
        Self {
            name,
            status: Status::Warning,
            finding: finding.into(),
            advice,
        }
    }

    fn failed(name: &'static str, finding: impl Into<String>, advice: impl Into<String>) -> Self {
        let status = Status::Failed;
        Self {
            status,
            ..Self::warning(name, finding, advice)
        }
    }
}

/// The results of all checks: what `doctor --json` prints.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether VMs can run.
    ready: bool,
    host: host::Facts,
    checks: Vec<Check>,
}

/// Runs all checks.
///
/// # Errors
/// Standard output's.
pub(crate) fn run(args: &Doctor) -> anyhow::Result<u8> {
    let host = host::Facts::gather();
    let mut checks = vec![kvm::device(), kvm::capabilities(), kvm::processor()];
    let program = config::program();
    checks.push(program::check(&program));
    checks.extend(host.checks());
    checks.extend(program.ok().map(|program| network::check(&program)));
    checks.extend(images::checks());
    let ready = checks.iter().all(|check| check.status != Status::Failed);
    let report = Report {
        ready,
        host,
        checks,
    };
    match args.json {
        true => ui::json(&report)?,
        false => ui::print(&human(&report))?,
    }
    Ok(if report.ready { exit::OK } else { exit::FAILED })
}

fn human(report: &Report) -> String {
    let width = report
        .checks
        .iter()
        .map(|check| check.name.len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for check in &report.checks {
        let mark = match check.status {
            Status::Ok => "ok     ",
            Status::Warning => "warning",
            Status::Failed => "FAILED ",
        };
        text.push_str(&format!(
            "{mark}  {:<width$}  {}\n",
            check.name, check.finding
        ));
        if let Some(advice) = &check.advice {
            text.push_str(&format!("         {:<width$}  -> {advice}\n", ""));
        }
    }
    text.push_str(match report.ready {
        true => "\nVMs can run on this host.\n",
        false => "\nVMs cannot run on this host before what FAILED is fixed.\n",
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_stands_below_what_it_is_for() {
        let checks = vec![
            Check::ok("kernel", "Linux 6.18"),
            Check::warning("huge pages", "never", "echo advise"),
            Check::failed("kvm", "there is none", "load it"),
        ];
        let report = Report {
            ready: false,
            host: host::Facts::gather(),
            checks,
        };
        let text = human(&report);
        assert!(text.contains("ok       kernel      Linux 6.18\n"), "{text}");
        assert!(
            text.contains("never\n                     -> echo advise\n"),
            "{text}"
        );
        assert!(text.ends_with("is fixed.\n"), "{text}");
    }
}
