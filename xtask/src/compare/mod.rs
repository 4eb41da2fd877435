//! Compares two builds of HyperFork: the fork path must get no slower.
//!
//! Three parties take turns in one run: the old build, the old build again, and the new one.
//! The second is the measure of the first: how far two equal programs are apart on this
//! host, today. What is compared are ratios of medians and of 99th percentiles, with
//! 95 % intervals from resampling.

mod linux;
mod nano;
mod stats;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// What to compare.
#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// The old build's program `hyperfork`
    #[arg(long)]
    old: PathBuf,
    /// The new build's
    #[arg(long)]
    new: PathBuf,
    /// Which cases, by a part of their names; all, if there is none
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Divide each case's number of samples by this, for a first look
    #[arg(long, default_value_t = 1)]
    fewer: u32,
    /// Write the samples here
    #[arg(long)]
    json: Option<PathBuf>,
}

/// One of the three programs that take turns.
#[derive(Debug, Clone)]
struct Party {
    name: &'static str,
    program: PathBuf,
}

/// Samples of one figure: microseconds, by party.
type Samples = BTreeMap<&'static str, Vec<f64>>;

/// The figures of one case.
#[derive(Debug, Serialize)]
struct Case {
    case: String,
    /// Figures by name: `total_us`, `ready_us`, …
    figures: BTreeMap<&'static str, Figure>,
}

#[derive(Debug, Serialize)]
struct Figure {
    samples: Samples,
    /// New by old, and old by old.
    ratios: BTreeMap<&'static str, stats::Ratio>,
}

#[derive(Debug, Serialize)]
struct Document {
    kernel: String,
    cpu: String,
    began_unix_s: u64,
    old: String,
    new: String,
    cases: Vec<Case>,
}

const OLD: &str = "old";
const OLD_AGAIN: &str = "old_again";
const NEW: &str = "new";

/// Compares, and prints the result.
///
/// # Errors
/// A program fails.
pub(crate) fn run(args: &Compare) -> Result<()> {
    let party = |name, program: &PathBuf| -> Result<Party> {
        let program = program
            .canonicalize()
            .with_context(|| program.display().to_string())?;
        Ok(Party { name, program })
    };
    let parties = [
        party(OLD, &args.old)?,
        party(OLD_AGAIN, &args.old)?,
        party(NEW, &args.new)?,
    ];
    let mut document = Document {
        kernel: read("/proc/sys/kernel/osrelease")?,
        cpu: cpu()?,
        began_unix_s: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
        old: version(&parties[0])?,
        new: version(&parties[2])?,
        cases: Vec::new(),
    };
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|o| name.contains(o));
    for case in nano::CASES.iter().filter(|case| wanted(case.name)) {
        let samples = case.run(&parties, args.fewer)?;
        document.add(case.name, samples)?;
    }
    for case in linux::CASES.iter().filter(|case| wanted(case.name)) {
        let samples = case.run(&parties, args.fewer)?;
        document.add(case.name, samples)?;
    }
    if document.cases.is_empty() {
        bail!("no case is called like that");
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&document)?)
            .with_context(|| path.display().to_string())?;
    }
    Ok(())
}

impl Document {
    fn add(&mut self, case: &str, figures: BTreeMap<&'static str, Samples>) -> Result<()> {
        let mut compared = BTreeMap::new();
        for (name, samples) in figures {
            let mut ratios = BTreeMap::new();
            for (label, of, by) in [("new/old", NEW, OLD), ("old/old", OLD_AGAIN, OLD)] {
                let ratio = stats::Ratio::of(&samples[of], &samples[by])
                    .with_context(|| format!("{case} has no samples of {name}"))?;
                println!("{case:>14} {name:>9} {label}: {ratio}");
                ratios.insert(label, ratio);
            }
            compared.insert(name, Figure { samples, ratios });
        }
        self.cases.push(Case {
            case: case.to_owned(),
            figures: compared,
        });
        Ok(())
    }
}

impl Party {
    /// The program, with a run directory of its own.
    fn command(&self) -> Result<Command> {
        let run_dir = std::env::temp_dir().join(format!("hf-compare-{}", self.name));
        std::fs::create_dir_all(&run_dir)?;
        let mut command = Command::new(&self.program);
        command.env("XDG_RUNTIME_DIR", run_dir);
        Ok(command)
    }
}

/// The order in which the parties take their turns in this round: each comes first, second and
/// last equally often.
fn turns(parties: &[Party; 3], round: usize) -> impl Iterator<Item = &Party> {
    (0..3).map(move |at| &parties[(at + round) % 3])
}

fn version(party: &Party) -> Result<String> {
    let mut command = party.command()?;
    let output = crate::run::output(command.arg("--version"))?;
    let bytes = std::fs::read(&party.program)?;
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    Ok(format!("{} {sum:016x}", output.trim()))
}

fn read(path: &str) -> Result<String> {
    Ok(std::fs::read_to_string(path)
        .context(path.to_owned())?
        .trim()
        .to_owned())
}

fn cpu() -> Result<String> {
    let info = read("/proc/cpuinfo")?;
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    Ok(model
        .unwrap_or("unknown")
        .trim_start_matches([' ', '\t', ':'])
        .to_owned())
}
