//! The picture in the README, drawn from the committed figures.
//!
//! It is written by hand, though `bench` has plotters: that has axes and curves, but no horizontal
//! bars with their names beside them, so this code would place rectangles and texts all the same;
//! and xtask is what a fresh checkout compiles first.

use crate::workspace::root;
use anyhow::{Context, Result};
use serde_json::Value;
use std::fmt::Write;
use std::fs;

/// Where the figures are, of guests of one shape on one host.
const BOOT: &str = "docs/results/boot/boot.json";
const FORKS: &str = "docs/results/linux/ready.json";

const WIDTH: f64 = 760.0;
const LEFT: f64 = 250.0;
const ROW: f64 = 40.0;
const TOP: f64 = 46.0;
/// Microseconds at the axis' ends; it is logarithmic.
const AXIS: (f64, f64) = (1e3, 1e7);

/// Draws medians as bars.
pub(crate) fn fork_svg() -> Result<String> {
    let boot = read(BOOT)?;
    let forks = read(FORKS)?;
    let forks = forks["b"].as_array().context("there are no forks")?;
    let of_forks = |key: &str| median(forks.iter().map(|fork| &fork[key]));
    let boot_us = boot["rows"][0]["ready_p50_us"].as_f64();
    let bars = [
        (
            "cold boot to ready",
            boot_us.context("there is no time of a boot")?,
        ),
        ("fork to the agent's first answer", of_forks("ready_us")?),
        ("fork to the first guest instruction", of_forks("total_us")?),
        ("the parent's pause", of_forks("pause_us")?),
    ];
    let height = TOP + ROW * bars.len() as f64 + 40.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"14\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"15\" fill=\"#222\">A Linux guest of 256 MiB and 2 CPUs \
         on a PVM host (medians, log scale)</text>\n"
    );
    for (exponent, label) in ["1 ms", "10 ms", "100 ms", "1 s", "10 s"]
        .iter()
        .enumerate()
    {
        let x = place(10f64.powi(exponent as i32 + 3));
        let bottom = height - 34.0;
        writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#ddd\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666\">{label}</text>",
            bottom + 18.0
        )?;
    }
    for (row, (name, us)) in bars.iter().enumerate() {
        let y = TOP + ROW * row as f64 + 8.0;
        let end = place(*us);
        let color = if row == 0 { "#b0b7c3" } else { "#2f6fde" };
        writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#222\">{name}</text>\
             <rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"22\" fill=\"{color}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#222\">{}</text>",
            LEFT - 10.0,
            y + 16.0,
            (end - LEFT).max(1.0),
            end + 6.0,
            y + 16.0,
            duration(*us)
        )?;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn place(us: f64) -> f64 {
    let right = WIDTH - 70.0;
    let share = (us / AXIS.0).log10() / (AXIS.1 / AXIS.0).log10();
    LEFT + (right - LEFT) * share.clamp(0.0, 1.0)
}

fn duration(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{:.1} s", us / 1e6),
        us if us >= 1e4 => format!("{:.0} ms", us / 1e3),
        us => format!("{:.1} ms", us / 1e3),
    }
}

fn read(file: &'static str) -> Result<Value> {
    let text = fs::read_to_string(root().join(file)).context(file)?;
    serde_json::from_str(&text).context(file)
}

fn median<'a>(values: impl Iterator<Item = &'a Value>) -> Result<f64> {
    let mut values: Vec<f64> = values
        .map(|value| value.as_f64().context("a figure is missing"))
        .collect::<Result<_>>()?;
    values.sort_by(f64::total_cmp);
    values
        .get(values.len() / 2)
        .copied()
        .context("there are no figures")
}
