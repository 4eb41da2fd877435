//! Forks of the embedded guest, by `hyperfork bench fork`: slices of it take turns.

use super::{Party, Samples, turns};
use crate::run::run;
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;

/// Forks of the embedded guest.
pub(super) struct Nano {
    pub(super) name: &'static str,
    arguments: &'static [&'static str],
    rounds: usize,
    /// Samples of each party in a round.
    slice: u32,
}

/// n = 1 000 for single forks; 30 for 64 clones at once.
pub(super) const CASES: [Nano; 3] = [
    Nano {
        name: "nano-0",
        arguments: &["--memory-mib=512", "--dirty-pages=0", "--clones=1"],
        rounds: 18,
        slice: 60,
    },
    Nano {
        name: "nano-1000",
        arguments: &["--memory-mib=512", "--dirty-pages=1000", "--clones=1"],
        rounds: 18,
        slice: 60,
    },
    Nano {
        name: "wide-64",
        arguments: &["--memory-mib=64", "--dirty-pages=0", "--clones=64"],
        rounds: 6,
        slice: 6,
    },
];

const FIGURES: [&str; 3] = ["total_us", "ready_us", "pause_us"];

impl Nano {
    pub(super) fn run(
        &self,
        parties: &[Party; 3],
        fewer: u32,
    ) -> Result<BTreeMap<&'static str, Samples>> {
        let mut figures: BTreeMap<&'static str, Samples> = BTreeMap::new();
        let file = tempfile()?;
        for round in 0..self.rounds.div_ceil(fewer as usize) {
            for party in turns(parties, round) {
                let _ = std::fs::remove_file(&file);
                run(party
                    .command()?
                    .args(["bench", "fork", "--strategy=image", "--quiet"])
                    .args(self.arguments)
                    .args(["-n", &self.slice.to_string(), "--json"])
                    .arg(&file)
                    .stdout(std::process::Stdio::null()))?;
                let document: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
                for figure in FIGURES {
                    let samples = column(&document["rows"][0]["samples"], figure)
                        .with_context(|| format!("no samples of {figure}"))?;
                    let all = figures.entry(figure).or_default();
                    all.entry(party.name).or_default().extend(samples);
                }
            }
        }
        Ok(figures)
    }
}

/// A figure's values: samples are a list of objects, or an object of lists.
fn column(samples: &Value, figure: &str) -> Option<Vec<f64>> {
    match samples {
        Value::Array(samples) => samples.iter().map(|one| one[figure].as_f64()).collect(),
        Value::Object(columns) => {
            let column = columns.get(figure)?.as_array()?;
            column.iter().map(Value::as_f64).collect()
        }
        _ => None,
    }
}

fn tempfile() -> Result<std::path::PathBuf> {
    let name = format!("hf-compare-{}.json", std::process::id());
    Ok(std::env::temp_dir().join(name))
}
